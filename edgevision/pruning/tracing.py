"""torch-pruning's dependency graph of a network, with what its own trace does not see."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from edgevision.errors import ModelError
from edgevision.lazy import require
from edgevision.pruning.by_groups import tie_sides
from edgevision.pruning.splits import Split, follow, split_of
from edgevision.pruning.whole import forget

_ASKED = ("split_size_or_sections", "split_size", "split_sizes", "chunks")  # of parts
_HINT = (
    "Pruning needs one image tensor in, outputs that are differentiable with respect to the "
    "weights (no argmax, numpy or torch.no_grad in forward), and operations that "
    "torch-pruning's dependency graph can follow."
)


def trace(module: nn.Module, example: torch.Tensor, *, joins: bool = True) -> Any:
    """torch-pruning's dependency graph of ``module``, traced with ``example`` in eval mode.

    Args:
        joins: whether torch-pruning is told the sizes of what is concatenated, which contradicts
            some of what it infers elsewhere; then the trace is repeated without.

    Raises:
        ModelError: the forward pass fails, or its output does not depend on the weights.
    """
    tp = require("torch_pruning")  # on use: rebuilding a stored network does without
    graph = tp.DependencyGraph()
    seen = _Channels(module)
    forget(module)
    # torch-pruning takes a concatenation for one of channels only if the layer behind it reads
    # as many as go in, which a flatten between them hides.
    graph.REGISTERED_PRUNERS[tp.ops.OPTYPE.CONCAT].get_in_channels = lambda layer: (
        sum(layer.concat_sizes)
        if layer.concat_sizes is not None
        and None not in layer.concat_sizes
        and graph.module2node[layer].grad_fn in seen.concatenations
        else None
    )
    # What a split contributes to a concatenation is a part of it, which torch-pruning overlooks.
    graph.REGISTERED_PRUNERS[tp.ops.OPTYPE.CONCAT].get_out_channels = lambda layer: (
        (sum(seen.concatenations.get(graph.module2node[layer].grad_fn, ())) or None)
        if joins
        else None
    )
    build = graph._build_dependency

    def build_with_sizes(nodes: Any) -> None:
        for node in nodes.values():
            sizes = seen.concatenations.get(node.grad_fn, ())
            if joins and node.type == tp.ops.OPTYPE.CONCAT and len(sizes) == len(node.inputs):
                node.module.concat_sizes = list(sizes)
        build(nodes)

    graph._build_dependency = build_with_sizes
    with all_trainable(module), warnings.catch_warnings(), torch.enable_grad(), seen:
        # Deep graphs stop a shape inference whose result is only a check here.
        warnings.filterwarnings("ignore", message="Maximum recursive depth reached")
        try:
            graph.build_dependency(module, [example], verbose=False)
        except Exception as error:
            if joins and isinstance(error, ArithmeticError):
                return trace(module, example, joins=False)
            raise ModelError(
                f"Cannot trace {type(module).__name__} with an input of shape "
                f"{tuple(example.shape)}: {type(error).__name__}: {error}",
                hint=_HINT,
            ) from error
    forget(module)
    weighted = (nn.modules.conv._ConvNd, nn.Linear)
    if not any(isinstance(layer, weighted) for layer in graph.module2node):
        raise ModelError(
            f"Cannot trace {type(module).__name__}: its output depends on no convolution or "
            "linear layer in a differentiable way.",
            hint=_HINT,
        )
    for node in graph.module2node.values():
        if node.type == tp.ops.OPTYPE.SPLIT and node.grad_fn in seen.splits:
            follow(node, seen.splits[node.grad_fn])
        elif node.type == tp.ops.OPTYPE.CONCAT:
            sizes = seen.concatenations.get(node.grad_fn, ())
            if not joins or len(sizes) != len(node.inputs):
                node.module.concat_sizes = None
        elif node.type == tp.ops.OPTYPE.SLICE and _is_spatial(node):
            node.type = tp.ops.OPTYPE.ELEMENTWISE
        for dep in node.dependencies:  # derived anew from the sizes
            dep.index_mapping = [None, None]
    tp.dependency.index_mapping.update_index_mapping(graph)
    tie_sides(graph)
    return graph


def _is_spatial(node: Any) -> bool:
    """Whether a slice along axis 1 is one of rows, in NHWC: the columns are sliced beside it."""
    beside = [
        other.module.dim
        for other in (*node.inputs, *node.outputs)
        if type(other.module).__name__ == "_SliceOp"
    ]
    return node.module.dim == 1 and 2 in beside


@contextmanager
def all_trainable(module: nn.Module) -> Iterator[None]:
    """Let gradients flow through frozen layers too, which the trace would not see otherwise."""
    frozen = [p for p in module.parameters() if not p.requires_grad and p.is_floating_point()]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


class _Channels(TorchFunctionMode):
    """Remembers the autograd nodes that join or split the channels of images or rows."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.concatenations: dict[Any, tuple[int, ...]] = {}  # and the channels of each part
        self.splits: dict[Any, Split] = {}
        self._module = module
        self._running: list[nn.Module] = []
        self._hooks: list[Any] = []

    def __enter__(self) -> _Channels:
        for layer in self._module.modules():
            self._hooks.append(layer.register_forward_pre_hook(self._begin))
            self._hooks.append(layer.register_forward_hook(self._end))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def _begin(self, layer: nn.Module, _: Any) -> None:
        self._running.append(layer)

    def _end(self, *_: Any) -> None:
        self._running.pop()

    def __exit__(self, *error: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name in ("cat", "concat", "concatenate"):
            along = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else 0))
            if result.ndim in (2, 4) and along % result.ndim == 1:
                parts = args[0] if args else kwargs["tensors"]
                sizes = tuple(int(part.shape[1]) for part in parts)
                self.concatenations[result.grad_fn] = sizes
        elif name in ("chunk", "split", "split_with_sizes"):
            whole = args[0] if args else _given(kwargs, "tensor", "input", "self")
            joined = sum(part.shape[1] for part in result) if whole.ndim in (2, 4) else None
            if joined == whole.shape[1]:
                asked = args[1] if len(args) > 1 else _given(kwargs, *_ASKED)
                owner = self._running[-1] if self._running else None
                self.splits[result[0].grad_fn] = split_of(result, asked, owner)
        return result


def _given(kwargs: Mapping[str, Any], *names: str) -> Any:
    """The argument that one of several functions has under one of these names."""
    return next((kwargs[name] for name in names if name in kwargs), None)
