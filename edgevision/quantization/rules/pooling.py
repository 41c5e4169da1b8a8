"""Average pooling: integers in, and out where the target wants it."""

from __future__ import annotations

import onnx

from edgevision.quantization.rules.base import Outcome, Placer, Refusal


def pooling(node: onnx.NodeProto, placer: Placer) -> Outcome | Refusal:
    """Quantize the input; the output too where the scheme lists the operator."""
    if not placer.is_float32(node.input[0]):
        return Refusal("its input is not known to be float32")
    placer.quantize_input(node, 0)
    placer.quantize_result(node)
    return Outcome.INT8
