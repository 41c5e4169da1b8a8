"""ReduceMean and ReduceMax over height and width become pooling, which has INT8 kernels."""

from __future__ import annotations

import onnx
from onnx import helper

from edgevision.export.graph import Graph, attribute


def reduce_to_pool(model: onnx.ModelProto) -> int:
    """Rewrite reductions over exactly the last two of four axes with ``keepdims=1``.

    ReduceMean becomes GlobalAveragePool. ReduceMax becomes a MaxPool over the whole image where
    its size is fixed: GlobalMaxPool has no integer kernel in ONNX Runtime.
    """
    graph = Graph(model)
    shapes = {v.name: _shape(v) for v in [*model.graph.input, *model.graph.value_info]}
    changed = 0
    for node in model.graph.node:
        shape = shapes.get(node.input[0], []) if node.input else []
        if node.op_type not in ("ReduceMean", "ReduceMax") or len(shape) != 4:
            continue
        if not attribute(node, "keepdims", 1) or _axes(node, graph) != [2, 3]:
            continue
        if node.op_type == "ReduceMax":
            if 0 in shape[2:]:
                continue
            node.op_type = "MaxPool"
            kernel = [helper.make_attribute("kernel_shape", shape[2:])]
        else:
            node.op_type = "GlobalAveragePool"
            kernel = []
        del node.input[1:], node.attribute[:]
        node.attribute.extend(kernel)
        changed += 1
    return changed


def _axes(node: onnx.NodeProto, graph: Graph) -> list[int]:
    axes = attribute(node, "axes")
    if axes is None and len(node.input) > 1 and node.input[1]:
        axes = graph.constant(node.input[1])
    return sorted(int(axis) % 4 for axis in axes) if axes is not None else []


def _shape(value: onnx.ValueInfoProto) -> list[int]:
    """Sizes of a tensor's axes, 0 where they are not fixed."""
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]
