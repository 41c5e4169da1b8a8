"""Sum of two tensors becomes Add, which quantization has rules for."""

from __future__ import annotations

import onnx


def sum_to_add(model: onnx.ModelProto) -> int:
    """Rename every Sum with two inputs; the two compute the same."""
    found = [n for n in model.graph.node if n.op_type == "Sum" and len(n.input) == 2]
    for node in found:
        node.op_type = "Add"
    return len(found)
