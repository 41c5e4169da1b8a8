"""Nonlinearities, and the softmax family."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edgevision.quantization.torch_ops.base import Inputs, Node, TorchOp, required, together


def _leaky_relu(node: Node, inputs: Inputs) -> Tensor:
    return F.leaky_relu(required(inputs), node.get("alpha", 0.01))


def _prelu(node: Node, inputs: Inputs) -> Tensor:
    value, slope = together(inputs)
    return torch.where(value < 0, value * slope, value)


def _hard_sigmoid(node: Node, inputs: Inputs) -> Tensor:
    line: Tensor = required(inputs) * node.get("alpha", 0.2) + node.get("beta", 0.5)
    return line.clamp(0, 1)


def _gelu(node: Node, inputs: Inputs) -> Tensor:
    return F.gelu(required(inputs), approximate=node.get("approximate", "none"))


def _elu(node: Node, inputs: Inputs) -> Tensor:
    return F.elu(required(inputs), node.get("alpha", 1.0))


def _celu(node: Node, inputs: Inputs) -> Tensor:
    return F.celu(required(inputs), node.get("alpha", 1.0))


def _selu(node: Node, inputs: Inputs) -> Tensor:
    gamma = float(node.get("gamma", 1.0507010))
    return gamma * F.elu(required(inputs), node.get("alpha", 1.6732632))


def _thresholded_relu(node: Node, inputs: Inputs) -> Tensor:
    return F.threshold(required(inputs), node.get("alpha", 1.0), 0.0)


def _swish(node: Node, inputs: Inputs) -> Tensor:
    value = required(inputs)
    return value * torch.sigmoid(node.get("alpha", 1.0) * value)


def _softmax(node: Node, inputs: Inputs) -> Tensor:
    function = F.log_softmax if node.operator == "LogSoftmax" else F.softmax
    value = required(inputs)
    if node.opset >= 13:
        return function(value, node.get("axis", -1))
    # Older opsets take everything from the axis on as one.
    axis = node.get("axis", 1) % max(value.ndim, 1)
    return function(value.flatten(axis), -1).reshape(value.shape)


def _dropout(node: Node, inputs: Inputs) -> Tensor:
    if node.outputs > 1:
        raise node.refuse("its mask is asked for")
    if len(inputs) > 2 and inputs[2] is not None and bool(inputs[2]):
        raise node.refuse("it is in training mode")
    return required(inputs)


OPERATORS: dict[str, TorchOp] = {
    "Celu": _celu,
    "Dropout": _dropout,
    "Elu": _elu,
    "Erf": lambda node, inputs: torch.erf(required(inputs)),
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda node, inputs: F.hardswish(required(inputs)),
    "LeakyRelu": _leaky_relu,
    "LogSoftmax": _softmax,
    "Mish": lambda node, inputs: F.mish(required(inputs)),
    "PRelu": _prelu,
    "Relu": lambda node, inputs: F.relu(required(inputs)),
    "Selu": _selu,
    "Sigmoid": lambda node, inputs: torch.sigmoid(required(inputs)),
    "Softmax": _softmax,
    "Softplus": lambda node, inputs: F.softplus(required(inputs)),
    "Softsign": lambda node, inputs: F.softsign(required(inputs)),
    "Swish": _swish,
    "Tanh": lambda node, inputs: torch.tanh(required(inputs)),
    "ThresholdedRelu": _thresholded_relu,
}
