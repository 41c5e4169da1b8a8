"""Concat: all inputs as integers, on one scale where the scheme says so."""

from __future__ import annotations

import onnx

from edgevision.quantization.rules.base import Outcome, Placer, Refusal


def concat(node: onnx.NodeProto, placer: Placer) -> Outcome | Refusal:
    """Quantize the inputs of a Concat of activations in front of a layer that runs on integers.

    Elsewhere it would only cost accuracy: a class token beside image tokens is much smaller.
    """
    names = [str(name) for name in node.input]
    if not all(placer.is_float32(name) for name in names):
        return Refusal("an input is not known to be float32")
    if any(placer.is_constant(name) for name in names):
        return Refusal("one input is a constant")
    if not placer.feeds_integers(str(node.output[0])):
        return Refusal("nothing behind it runs on integers")
    for slot in range(len(names)):
        placer.quantize_input(node, slot)
    placer.quantize_result(node)
    if node.op_type in placer.scheme.shared_scale:
        placer.share_scale([*names, str(node.output[0])])
    return Outcome.INT8
