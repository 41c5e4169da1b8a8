"""Normalizations as they are at inference."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edgevision.quantization.torch_ops.base import Inputs, Node, TorchOp, optional, required


def _batch(node: Node, inputs: Inputs) -> Tensor:
    if node.get("training_mode", 0) or node.outputs > 1:
        raise node.refuse("it is in training mode")
    value, scale, bias, mean, variance = (required(inputs, slot) for slot in range(5))
    return F.batch_norm(value, mean, variance, scale, bias, eps=node.get("epsilon", 1e-5))


def _instance(node: Node, inputs: Inputs) -> Tensor:
    value, scale, bias = (required(inputs, slot) for slot in range(3))
    return F.instance_norm(value, weight=scale, bias=bias, eps=node.get("epsilon", 1e-5))


def _group(node: Node, inputs: Inputs) -> Tensor:
    value, scale, bias = (required(inputs, slot) for slot in range(3))
    groups = node.get("num_groups")
    if scale.shape[0] == groups != value.shape[1]:  # before opset 21: one a group
        scale, bias = (p.repeat_interleave(value.shape[1] // groups) for p in (scale, bias))
    return F.group_norm(value, groups, scale, bias, node.get("epsilon", 1e-5))


def _layer(node: Node, inputs: Inputs) -> Tensor | tuple[Tensor, ...]:
    value, scale, bias = required(inputs), required(inputs, 1), optional(inputs, 2)
    axis = node.get("axis", -1) % value.ndim
    shape = value.shape[axis:]
    scale, bias = scale.expand(shape), None if bias is None else bias.expand(shape)
    epsilon = node.get("epsilon", 1e-5)
    out = F.layer_norm(value, shape, scale, bias, epsilon)
    if node.outputs == 1:
        return out
    axes = tuple(range(axis, value.ndim))
    variance, mean = torch.var_mean(value, axes, correction=0, keepdim=True)
    return (out, mean, (variance + epsilon).rsqrt())


def _root_mean_square(node: Node, inputs: Inputs) -> Tensor:
    value, scale = required(inputs), required(inputs, 1)
    axis = node.get("axis", -1) % value.ndim
    squares = value.square().mean(tuple(range(axis, value.ndim)), keepdim=True)
    out: Tensor = value * (squares + node.get("epsilon", 1e-5)).rsqrt() * scale
    return out


def _lp(node: Node, inputs: Inputs) -> Tensor:
    value, axis = required(inputs), node.get("axis", -1)
    norm = torch.linalg.vector_norm(value, node.get("p", 2), axis, keepdim=True)
    return torch.where(norm == 0, torch.zeros_like(value), value / norm)


OPERATORS: dict[str, TorchOp] = {
    "BatchNormalization": _batch,
    "GroupNormalization": _group,
    "InstanceNormalization": _instance,
    "LayerNormalization": _layer,
    "LpNormalization": _lp,
    "RMSNormalization": _root_mean_square,
}
