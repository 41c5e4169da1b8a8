"""ReduceMean and ReduceMax over height and width become pooling, which has INT8 kernels."""

from __future__ import annotations

import onnx
from onnx import helper

from edgevision.export.graph import Graph, attribute


def reduce_to_pool(model: onnx.ModelProto) -> int:
    """Rewrite reductions over exactly the last two of four axes.

    ReduceMean becomes GlobalAveragePool. ReduceMax becomes a MaxPool over the whole image where
    its size is fixed: GlobalMaxPool has no integer kernel in ONNX Runtime. With ``keepdims=0``
    a Flatten follows.
    """
    graph = Graph(model)
    shapes = {v.name: _shape(v) for v in [*model.graph.input, *model.graph.value_info]}
    nodes: list[onnx.NodeProto] = []
    changed = 0
    for node in graph.nodes:
        nodes.append(node)
        shape = shapes.get(node.input[0], []) if node.input else []
        if node.op_type not in ("ReduceMean", "ReduceMax") or len(shape) != 4:
            continue
        if _axes(node, graph) != [2, 3]:
            continue
        keeps = bool(attribute(node, "keepdims", 1))
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
        if not keeps:
            end = node.output[0]
            node.output[0] = graph.fresh_name(f"{end}_pooled")
            nodes.append(helper.make_node("Flatten", [node.output[0]], [end], axis=1))
        changed += 1
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    return changed


def _axes(node: onnx.NodeProto, graph: Graph) -> list[int]:
    axes = attribute(node, "axes")
    if axes is None and len(node.input) > 1 and node.input[1]:
        axes = graph.constant(node.input[1])
    return sorted(int(axis) % 4 for axis in axes) if axes is not None else []


def _shape(value: onnx.ValueInfoProto) -> list[int]:
    """Sizes of a tensor's axes, 0 where they are not fixed."""
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]
