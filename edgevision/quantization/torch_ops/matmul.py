"""Products of matrices."""

from __future__ import annotations

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


def _gemm(node: Node, inputs: Inputs) -> Tensor:
    left, right, added = required(inputs), required(inputs, 1), optional(inputs, 2)
    left = left.t() if node.get("transA", 0) else left
    right = right.t() if node.get("transB", 0) else right
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    product = left @ right
    if alpha != 1:
        product = product * alpha
    if added is None:
        return product
    return product + (added if beta == 1 else added * beta)


def _matmul(node: Node, inputs: Inputs) -> Tensor:
    return torch.matmul(required(inputs), required(inputs, 1))


def _einsum(node: Node, inputs: Inputs) -> Tensor:
    return torch.einsum(node.get("equation"), *together(inputs))


OPERATORS: dict[str, TorchOp] = {"Einsum": _einsum, "Gemm": _gemm, "MatMul": _matmul}
