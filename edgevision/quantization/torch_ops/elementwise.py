"""Operators that act on each element, with broadcasting."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import onnx
import torch
from torch import Tensor

from edgevision.quantization.torch_ops.base import (
    Inputs,
    Node,
    TorchOp,
    optional,
    required,
    together,
)

_TYPES = {"bool", "bfloat16", "float16", "float32", "float64", "int8", "int16", "int32", "int64"}
_TYPES |= {"uint8"}


def _unary(function: Callable[[Tensor], Tensor]) -> TorchOp:
    return lambda node, inputs: function(required(inputs))


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> TorchOp:
    def op(node: Node, inputs: Inputs) -> Tensor:
        left, right = together(inputs)
        return function(left, right)

    return op


def _variadic(function: Callable[[Tensor, Tensor], Tensor]) -> TorchOp:
    return lambda node, inputs: reduce(function, together(inputs))


def _divide(left: Tensor, right: Tensor) -> Tensor:
    """Integers are cut towards zero, as in C."""
    return torch.div(left, right, rounding_mode=None if left.is_floating_point() else "trunc")


def _power(left: Tensor, right: Tensor) -> Tensor:
    """The result has the type of the base."""
    return torch.pow(left, right).to(left.dtype)


def _modulo(node: Node, inputs: Inputs) -> Tensor:
    left, right = together(inputs)
    return torch.fmod(left, right) if node.get("fmod", 0) else torch.remainder(left, right)


def _where(node: Node, inputs: Inputs) -> Tensor:
    condition, left, right = together(inputs)
    return torch.where(condition, left, right)


def _clip(node: Node, inputs: Inputs) -> Tensor:
    value = required(inputs)
    for slot, name, function in ((1, "min", torch.maximum), (2, "max", torch.minimum)):
        limit = optional(inputs, slot)
        if limit is None and name in node.attributes:  # before opset 11
            limit = torch.tensor(node.get(name))
        if limit is not None:
            # 0-d, so that no device copy is needed; what is outside gets no gradient.
            value = function(value, limit.to(value.device, value.dtype))
    return value


def _cast(node: Node, inputs: Inputs) -> Tensor:
    return required(inputs).to(torch_type(node, node.get("to")))


def torch_type(node: Node, number: int) -> torch.dtype:
    """torch's name for the ONNX element type ``number``."""
    name = onnx.TensorProto.DataType.Name(number).lower()
    known = {"float": "float32", "double": "float64"}.get(name, name)
    if known not in _TYPES:
        raise node.refuse(f"torch does not compute with the element type {name}")
    dtype: torch.dtype = getattr(torch, known)
    return dtype


OPERATORS: dict[str, TorchOp] = {
    "Abs": _unary(torch.abs),
    "Add": _binary(torch.add),
    "And": _binary(torch.logical_and),
    "Cast": _cast,
    "Ceil": _unary(torch.ceil),
    "Clip": _clip,
    "Cos": _unary(torch.cos),
    "Div": _binary(_divide),
    "Equal": _binary(torch.eq),
    "Exp": _unary(torch.exp),
    "Floor": _unary(torch.floor),
    "Greater": _binary(torch.gt),
    "GreaterOrEqual": _binary(torch.ge),
    "Identity": _unary(lambda x: x),
    "Less": _binary(torch.lt),
    "LessOrEqual": _binary(torch.le),
    "Log": _unary(torch.log),
    "Max": _variadic(torch.maximum),
    "Min": _variadic(torch.minimum),
    "Mod": _modulo,
    "Mul": _binary(torch.mul),
    "Neg": _unary(torch.neg),
    "Not": _unary(torch.logical_not),
    "Or": _binary(torch.logical_or),
    "Pow": _binary(_power),
    "Reciprocal": _unary(torch.reciprocal),
    "Round": _unary(torch.round),
    "Sign": _unary(torch.sign),
    "Sin": _unary(torch.sin),
    "Sqrt": _unary(torch.sqrt),
    "Sub": _binary(torch.sub),
    "Sum": _variadic(torch.add),
    "Where": _where,
    "Xor": _binary(torch.logical_xor),
}
