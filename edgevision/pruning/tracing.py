"""torch-pruning's dependency graph of a network, with what its own trace does not see."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from edgevision.errors import ModelError
from edgevision.lazy import require

_HINT = (
    "Pruning needs one image tensor in, outputs that are differentiable with respect to the "
    "weights (no argmax, numpy or torch.no_grad in forward), and operations that "
    "torch-pruning's dependency graph can follow."
)


def trace(module: nn.Module, example: torch.Tensor) -> Any:
    """torch-pruning's dependency graph of ``module``, traced with ``example`` in eval mode.

    Raises:
        ModelError: the forward pass fails, or its output does not depend on the weights.
    """
    tp = require("torch_pruning")  # on use: rebuilding a stored network does without
    graph = tp.DependencyGraph()
    seen = _Channels()
    # torch-pruning takes a concatenation for one of channels only if the layer behind it reads
    # as many as go in, which a flatten between them hides.
    graph.REGISTERED_PRUNERS[tp.ops.OPTYPE.CONCAT].get_in_channels = lambda layer: (
        sum(layer.concat_sizes)
        if layer.concat_sizes is not None
        and None not in layer.concat_sizes
        and graph.module2node[layer].grad_fn in seen.concatenations
        else None
    )
    with all_trainable(module), warnings.catch_warnings(), torch.enable_grad(), seen:
        # Deep graphs stop a shape inference whose result is only a check here.
        warnings.filterwarnings("ignore", message="Maximum recursive depth reached")
        try:
            graph.build_dependency(module, [example], verbose=False)
        except Exception as error:
            raise ModelError(
                f"Cannot trace {type(module).__name__} with an input of shape "
                f"{tuple(example.shape)}: {type(error).__name__}: {error}",
                hint=_HINT,
            ) from error
    weighted = (nn.modules.conv._ConvNd, nn.Linear)
    if not any(isinstance(layer, weighted) for layer in graph.module2node):
        raise ModelError(
            f"Cannot trace {type(module).__name__}: its output depends on no convolution or "
            "linear layer in a differentiable way.",
            hint=_HINT,
        )
    for node in graph.module2node.values():
        if node.type == tp.ops.OPTYPE.SPLIT and node.grad_fn in seen.splits:
            _order_split(node, seen.splits[node.grad_fn])
        elif node.type == tp.ops.OPTYPE.CONCAT:
            node.module.concat_sizes = None
        for dep in node.dependencies:  # derived anew from the sizes, on the next use
            dep.index_mapping = [None, None]
    return graph


def split_sizes(node: Any) -> tuple[int, ...] | None:
    """Channels of each part if ``node`` is a split, none if it cannot be followed, else None."""
    if type(node.module).__name__ != "_SplitOp":
        return None
    return tuple(node.module.split_sizes) if getattr(node.module, "in_order", False) else ()


def _order_split(node: Any, sizes: list[int]) -> None:
    """Put the readers of a split in the order of its parts, as the graph takes them to be."""
    reads = {
        (part, reader)
        for reader in node.outputs
        for origin, part in reader.grad_fn.next_functions
        if origin is node.grad_fn
    }
    if sorted(part for part, _ in reads) != list(range(len(sizes))):
        return  # a part that nobody reads, or several
    by_part = dict(reads)
    node.outputs = [by_part[part] for part in range(len(sizes))]
    node.module.split_sizes = sizes
    node.module.offsets = [sum(sizes[:part]) for part in range(len(sizes) + 1)]
    node.module.in_order = True


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

    def __init__(self) -> None:
        super().__init__()
        self.concatenations: set[Any] = set()
        self.splits: dict[Any, list[int]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name in ("cat", "concat", "concatenate"):
            along = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else 0))
            if result.ndim in (2, 4) and along % result.ndim == 1:
                self.concatenations.add(result.grad_fn)
        elif name in ("chunk", "split", "split_with_sizes") and args[0].ndim in (2, 4):
            sizes = [part.shape[1] for part in result]
            if sum(sizes) == args[0].shape[1]:
                self.splits[result[0].grad_fn] = sizes
        return result
