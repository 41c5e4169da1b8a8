"""ReduceMean over height and width becomes GlobalAveragePool, which has INT8 kernels."""

from __future__ import annotations

import onnx

from edgevision.export.graph import Graph, attribute


def mean_to_global_pool(model: onnx.ModelProto) -> int:
    """Rewrite ReduceMean over exactly the last two of four axes with ``keepdims=1``."""
    graph = Graph(model)
    rank = {v.name: len(v.type.tensor_type.shape.dim) for v in _values(model.graph)}
    changed = 0
    for node in model.graph.node:
        if node.op_type != "ReduceMean" or not attribute(node, "keepdims", 1):
            continue
        if rank.get(node.input[0]) != 4 or _axes(node, graph) != [2, 3]:
            continue
        del node.input[1:], node.attribute[:]
        node.op_type = "GlobalAveragePool"
        changed += 1
    return changed


def _axes(node: onnx.NodeProto, graph: Graph) -> list[int]:
    axes = attribute(node, "axes")
    if axes is None and len(node.input) > 1 and node.input[1]:
        axes = graph.constant(node.input[1])
    return sorted(int(axis) % 4 for axis in axes) if axes is not None else []


def _values(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    return [*graph.input, *graph.value_info]
