"""ONNX operators as torch functions, one family a file: what a float graph is trained through."""

from __future__ import annotations

from types import MappingProxyType

from edgevision.quantization.torch_ops import (
    activation,
    convolution,
    elementwise,
    matmul,
    normalisation,
    pooling,
    reduction,
    resize,
    shape,
)
from edgevision.quantization.torch_ops.base import Inputs, Node, TorchOp

_FAMILIES = (
    activation,
    convolution,
    elementwise,
    matmul,
    normalisation,
    pooling,
    reduction,
    resize,
    shape,
)
OPERATORS = MappingProxyType(
    {name: op for family in _FAMILIES for name, op in family.OPERATORS.items()}
)

__all__ = ["OPERATORS", "Inputs", "Node", "TorchOp"]
