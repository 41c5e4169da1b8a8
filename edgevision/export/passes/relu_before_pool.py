"""Conv → MaxPool → Relu becomes Conv → Relu → MaxPool, so that the Relu fuses into the Conv."""

from __future__ import annotations

import onnx

from edgevision.export.graph import Graph


def relu_before_pool(model: onnx.ModelProto) -> int:
    """Swap MaxPool and the Relu behind it. Exact: Relu is monotone, so it commutes with max."""
    changed = 0
    while (pair := _find(Graph(model))) is not None:
        pool, relu = pair
        middle, end = pool.output[0], relu.output[0]
        relu.input[0], relu.output[0] = pool.input[0], middle
        pool.input[0], pool.output[0] = middle, end
        _forget_shape(model.graph, middle)
        _swap(model.graph, pool.output[0], middle)
        changed += 1
    return changed


def _find(graph: Graph) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
    for relu in graph.nodes:
        pool = _pool_before(relu, graph) if relu.op_type == "Relu" else None
        if pool is not None:
            return pool, relu
    return None


def _pool_before(relu: onnx.NodeProto, graph: Graph) -> onnx.NodeProto | None:
    """The MaxPool that lies alone between a convolution and ``relu``."""
    pool = graph.producers.get(relu.input[0])
    if pool is None or pool.op_type != "MaxPool" or len(pool.output) != 1:
        return None
    layer = graph.producers.get(pool.input[0])
    if layer is None or layer.op_type not in ("Conv", "ConvTranspose"):
        return None
    alone = graph.only_reader(pool.input[0]) is pool and graph.only_reader(pool.output[0]) is relu
    return pool if alone else None


def _swap(graph: onnx.GraphProto, first: str, second: str) -> None:
    """Exchange the places of the nodes that make ``first`` and ``second``."""
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    places = {name: i for i, node in enumerate(nodes) for name in node.output}
    i, j = places[first], places[second]
    nodes[i], nodes[j] = nodes[j], nodes[i]
    del graph.node[:]
    graph.node.extend(nodes)


def _forget_shape(graph: onnx.GraphProto, name: str) -> None:
    for value in list(graph.value_info):
        if value.name == name:
            graph.value_info.remove(value)
