"""Reductions over axes, and running sums."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from edgevision.quantization.torch_ops.base import (
    Inputs,
    Node,
    TorchOp,
    required,
    whole,
    whole_input,
)

Axes = tuple[int, ...]


def _reduce(function: Callable[[Tensor, Axes, bool], Tensor]) -> TorchOp:
    def op(node: Node, inputs: Inputs) -> Tensor:
        value = required(inputs)
        axes = whole_input(node, inputs, 1, "axes")
        if not axes:
            if node.get("noop_with_empty_axes", 0):
                # Only the reduction is left out, not what it does to each element.
                return function(value.unsqueeze(0), (0,), False)
            axes = list(range(value.ndim))
        if node.operator in ("ReduceMax", "ReduceMin") and not all(value.shape[a] for a in axes):
            raise node.refuse("it reduces an axis of size 0")
        if not axes:  # a number: reduced over one axis that is put in for it
            return function(value.unsqueeze(0), (0,), False)
        return function(value, tuple(axes), bool(node.get("keepdims", 1)))

    return op


def _sum(value: Tensor, axes: Axes, keep: bool) -> Tensor:
    return value.sum(axes, keepdim=keep).to(value.dtype)


def _product(value: Tensor, axes: Axes, keep: bool) -> Tensor:
    for axis in sorted((axis % value.ndim for axis in axes), reverse=True):
        value = value.prod(axis, keepdim=keep).to(value.dtype)
    return value


def _arg(node: Node, inputs: Inputs) -> Tensor:
    value, axis = required(inputs), node.get("axis", 0)
    last = bool(node.get("select_last_index", 0))
    if last:
        value = value.flip(axis)
    function = torch.argmax if node.operator == "ArgMax" else torch.argmin
    found = function(value, axis, keepdim=bool(node.get("keepdims", 1)))
    return value.shape[axis] - 1 - found if last else found


def _running_sum(node: Node, inputs: Inputs) -> Tensor:
    value = required(inputs)
    (axis,) = whole(required(inputs, 1))
    backwards = bool(node.get("reverse", 0))
    if backwards:
        value = value.flip(axis)
    total = value.cumsum(axis).to(value.dtype)
    if node.get("exclusive", 0):
        total = total - value
    return total.flip(axis) if backwards else total


OPERATORS: dict[str, TorchOp] = {
    "ArgMax": _arg,
    "ArgMin": _arg,
    "CumSum": _running_sum,
    "ReduceL1": _reduce(lambda x, axes, keep: _sum(x.abs(), axes, keep)),
    "ReduceL2": _reduce(lambda x, axes, keep: _sum(x.square(), axes, keep).sqrt()),
    "ReduceLogSum": _reduce(lambda x, axes, keep: _sum(x, axes, keep).log()),
    "ReduceLogSumExp": _reduce(lambda x, axes, keep: torch.logsumexp(x, axes, keep)),
    "ReduceMax": _reduce(lambda x, axes, keep: torch.amax(x, axes, keep)),
    "ReduceMean": _reduce(lambda x, axes, keep: torch.mean(x, axes, keep)),
    "ReduceMin": _reduce(lambda x, axes, keep: torch.amin(x, axes, keep)),
    "ReduceProd": _reduce(_product),
    "ReduceSum": _reduce(_sum),
    "ReduceSumSquare": _reduce(lambda x, axes, keep: _sum(x.square(), axes, keep)),
}
