"""Constant nodes become initializers, the one form that later passes look for."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from edgevision.export.graph import attribute


def constants_to_initializers(model: onnx.ModelProto) -> int:
    """Replace every Constant node that holds a dense tensor or numbers by an initializer."""
    kept: list[onnx.NodeProto] = []
    for node in model.graph.node:
        tensor = _value(node) if node.op_type == "Constant" else None
        if tensor is None or node.output[0] in {value.name for value in model.graph.output}:
            kept.append(node)
            continue
        tensor.name = node.output[0]
        model.graph.initializer.append(tensor)
    changed = len(model.graph.node) - len(kept)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return changed


def _value(node: onnx.NodeProto) -> onnx.TensorProto | None:
    tensor = attribute(node, "value")
    if isinstance(tensor, onnx.TensorProto):
        return tensor
    for name, dtype in (
        ("value_float", np.float32),
        ("value_floats", np.float32),
        ("value_int", np.int64),
        ("value_ints", np.int64),
    ):
        number = attribute(node, name)
        if number is not None:
            return numpy_helper.from_array(np.array(number, dtype))
    return None
