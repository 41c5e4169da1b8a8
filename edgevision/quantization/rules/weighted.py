"""Conv, ConvTranspose, Gemm and MatMul: the layers whose work is worth integers."""

from __future__ import annotations

import onnx

from edgevision.export.graph import attribute
from edgevision.quantization.rules.base import Outcome, Placer, Refusal


def weighted(node: onnx.NodeProto, placer: Placer) -> Outcome | Refusal:
    """Quantize both factors: activations per tensor, constant weights per output channel."""
    refusal = _refuse(node, placer)
    if refusal is not None:
        return refusal
    for slot in (0, 1):
        if placer.is_constant(node.input[slot]):
            placer.quantize_weight(node, slot, weight_axis(node, placer, slot))
        else:
            placer.quantize_input(node, slot)
    if placer.scheme.bias == "int32" and len(node.input) > 2 and node.input[2]:
        placer.quantize_bias(node, 2)
    placer.quantize_result(node)
    return Outcome.INT8


def weight_axis(node: onnx.NodeProto, placer: Placer, slot: int) -> int | None:
    """The output-channel axis of the weights, None where one scale must serve all."""
    if slot == 0:
        return None
    rank = len(placer.graph.initializers[node.input[slot]].dims)
    return output_channel_axis(node, rank)


def output_channel_axis(node: onnx.NodeProto, rank: int) -> int | None:
    """Axis that TensorRT and ONNX Runtime both expect for weights of ``rank`` axes."""
    if node.op_type == "ConvTranspose":
        # With groups, axis 1 holds the channels of one group only.
        return 1 if attribute(node, "group", 1) == 1 else None
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    if node.op_type == "MatMul":
        return 1 if rank == 2 else None
    return 0


def _refuse(node: onnx.NodeProto, placer: Placer) -> Refusal | None:
    for name in node.input[:2]:
        if not placer.is_float32(name):
            return Refusal(f"'{name}' is not known to be float32")
    if all(placer.is_constant(name) for name in node.input[:2]):
        return Refusal("both factors are constant")
    weight = placer.graph.constant(node.input[1]) if placer.is_constant(node.input[1]) else None
    if node.op_type in ("Conv", "ConvTranspose") and weight is None:
        return Refusal("its weights are computed at run time")
    if node.op_type == "Gemm" and placer.scheme.bias == "int32":
        if attribute(node, "alpha", 1.0) != 1 or attribute(node, "beta", 1.0) != 1:
            return Refusal("alpha and beta other than 1 have no integer kernel")
        if attribute(node, "transA", 0) or weight is None:
            return Refusal("only constant weights and an input as it is have an integer kernel")
    if placer.scheme.bias == "int32" and len(node.input) > 2 and node.input[2]:
        bias = placer.graph.constant(node.input[2])
        axis = None if weight is None else output_channel_axis(node, weight.ndim)
        channels = 0 if weight is None or axis is None else weight.shape[axis]
        if bias is None or bias.shape != (channels,) or not placer.is_float32(node.input[2]):
            return Refusal(f"its bias is no constant of shape ({channels},)")
    return None
