"""Add, Mul and the like where the target has integer kernels for them, or integer forms."""

from __future__ import annotations

import onnx

from edgevision.quantization.rules.base import Outcome, Placer, Refusal


def elementwise(node: onnx.NodeProto, placer: Placer) -> Outcome | Refusal:
    """Quantize all inputs and, where the scheme says so, the output, each with its own scale.

    Only next to a layer that is quantized anyway: alone it would pay for converting twice.
    """
    names = [str(name) for name in node.input]
    if any(placer.is_constant(name) for name in names):
        return Refusal("one side is a constant")
    if not all(placer.is_float32(name) for name in names):
        return Refusal("an input is not known to be float32")
    if not any(name in placer.plan.activations for name in names):
        return Refusal("no input is quantized already")
    if node.op_type in placer.scheme.integer_forms and placer.tail(node) != node.output[0]:
        return Refusal("another activation stands behind it, which would take the Q with it")
    for slot in range(len(names)):
        placer.quantize_input(node, slot)
    placer.quantize_result(node)
    return Outcome.INT8
