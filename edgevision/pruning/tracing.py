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
    seen = _Concatenations()
    # torch-pruning takes a concatenation for one of channels only if the layer behind it reads
    # as many as go in, which a flatten between them hides.
    graph.REGISTERED_PRUNERS[tp.ops.OPTYPE.CONCAT].get_in_channels = lambda layer: (
        sum(layer.concat_sizes)
        if layer.concat_sizes is not None
        and None not in layer.concat_sizes
        and graph.module2node[layer].grad_fn in seen.of_channels
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
    return graph


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


class _Concatenations(TorchFunctionMode):
    """Remembers the autograd nodes of concatenations along the channels of images or rows."""

    def __init__(self) -> None:
        super().__init__()
        self.of_channels: set[Any] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func in (torch.cat, torch.concat, torch.concatenate):
            along = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else 0))
            if result.ndim in (2, 4) and along % result.ndim == 1:
                self.of_channels.add(result.grad_fn)
        return result
