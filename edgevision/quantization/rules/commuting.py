"""Operators that only move values about: integers in, the same integers out."""

from __future__ import annotations

import onnx

from edgevision.quantization.rules.base import Outcome, Placer, Refusal


def commuting(node: onnx.NodeProto, placer: Placer) -> Outcome | Refusal:
    """Carry quantization on from input to output with the same scale.

    Nothing is gained by starting it here, so a float input stays float.
    """
    if len([name for name in node.output if name]) != 1:
        return Refusal("it has several outputs")
    if not placer.is_quantized(node.input[0]):
        return Outcome.FOLLOWS
    if node.output[0] in placer.graph.outputs:
        return Outcome.FOLLOWS
    between = node.op_type in placer.scheme.quantized_between
    if between and not placer.leads_to_integers(node):
        return Outcome.FOLLOWS
    placer.quantize_tensor(node.output[0])
    placer.share_scale([node.input[0], node.output[0]])
    return Outcome.INT8
