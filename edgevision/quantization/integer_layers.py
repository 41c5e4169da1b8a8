"""Layers as integer kernels compute them: an exact sum of products, rounded once.

In float, sums of scaled numbers are rounded on the way, so that here and there a value falls on the
other side of a step than it does in the kernel. ONNX Runtime's kernels (``QLinearConv``,
``QGemm``) convert the exact sum to float32, multiply it by the input's step times the weights'
over the output's, all in float32, and round half to even.
"""

from __future__ import annotations

from torch import Tensor

from edgevision.export.graph import Graph, attribute
from edgevision.quantization.rules.base import Plan
from edgevision.quantization.torch_graph import Step
from edgevision.quantization.torch_ops.base import required

_CHANNELS = {"Conv": 1, "ConvTranspose": 1, "Gemm": -1, "MatMul": -1}  # axis of the output
_WITHIN = ("Relu", "Clip")  # what the clamping of the rounded sum does as well


def integer_layers(graph: Graph, plan: Plan) -> dict[int, str]:
    """Positions of the layers that integer kernels compute, with the tensor each rounds to.

    One whose bias or output stays in float runs in float.
    """
    found: dict[int, str] = {}
    for position, slot in plan.weights:
        node = graph.nodes[position]
        whole = (position, 0) in plan.activations.get(node.input[0], ())
        biased = len(node.input) > 2 and bool(node.input[2]) and position not in plan.biases
        plain = attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1.0
        rounded_to = _rounded_to(graph, plan, node.output[0])
        integer = slot == 1 and whole and plain and not biased
        if integer and rounded_to and node.op_type in _CHANNELS:
            found[position] = rounded_to
    return found


def _rounded_to(graph: Graph, plan: Plan, name: str) -> str | None:
    """The quantized tensor that the kernel of ``name`` makes, past an activation within it."""
    reader = graph.only_reader(name)
    if name not in plan.activations and reader is not None and reader.op_type in _WITHIN:
        name = reader.output[0]
    quantized = plan.activations.get(name, set())
    everywhere = len(quantized) == len(graph.uses.get(name, ()))
    leaves = name not in graph.outputs or name in plan.outputs
    return name if everywhere and leaves and (quantized or name in plan.outputs) else None


def integer_layer(
    step: Step,
    inputs: list[Tensor | None],
    data: Tensor,
    weight: Tensor,
    axis: int | None,
    out: Tensor,
) -> Tensor:
    """The output of a layer on the grid of what it is rounded to, float32 of the layer's shape.

    Sums up to 2^24 are exact; beyond, they are off by less than the kernel's own float32 is.

    Args:
        step: the layer.
        inputs: its inputs, fake-quantized.
        data: step of its input, a scalar.
        weight: step of its weights, a scalar or, along their ``axis``, one for each output.
        out: step of what it is rounded to, a scalar.
    """
    values, weights = required(inputs), required(inputs, 1)
    spread = weight if axis is None else _along(weight, axis, weights.ndim)
    whole: list[Tensor | None] = [(values / data).round(), (weights / spread).round()]
    sums = step.op(step.node, whole)
    assert isinstance(sums, Tensor)
    scale = data * weight
    channels = _CHANNELS[step.node.operator]
    if axis is not None:
        scale = _along(scale, channels, sums.ndim)
    bias = inputs[2] if len(inputs) > 2 else None
    if bias is not None:
        bias = _along(bias, channels, sums.ndim) if bias.ndim == 1 else bias
        sums = (sums.double() + (bias.double() / scale.double()).round()).float()
    return (sums * (scale / out)).round() * out


def _along(vector: Tensor, axis: int, ndim: int) -> Tensor:
    shape = [1] * ndim
    shape[axis] = -1
    return vector.reshape(shape)
