"""Drop nodes that pass their input on unchanged at inference."""

from __future__ import annotations

import onnx

from edgevision.export.graph import Graph

_IDENTITIES = ("Identity", "Dropout")


def drop_identities(model: onnx.ModelProto) -> int:
    """Remove Identity, and Dropout in inference mode with an unread mask.

    A node between a graph input or initializer and a graph output stays, since both names are
    part of the model's interface.
    """
    changed = 0
    for node in list(model.graph.node):
        graph = Graph(model)
        if node.op_type not in _IDENTITIES or not _passes_on(node, graph):
            continue
        source, target = node.input[0], node.output[0]
        if target in graph.captured:
            continue
        if target in graph.outputs:
            maker = graph.producers.get(source)
            if maker is None or source in graph.outputs or source in graph.captured:
                continue
            maker.output[list(maker.output).index(source)] = target
            _reread(graph, source, target)
        else:
            _reread(graph, target, source)
        model.graph.node.remove(node)
        changed += 1
    return changed


def _reread(graph: Graph, old: str, new: str) -> None:
    for use in graph.uses.get(old, []):
        use.node.input[use.slot] = new


def _passes_on(node: onnx.NodeProto, graph: Graph) -> bool:
    if node.op_type == "Identity":
        return True
    mask = [name for name in node.output[1:] if name]
    if any(graph.uses.get(name) or name in graph.outputs for name in mask):
        return False
    if len(node.input) < 3 or not node.input[2]:
        return True
    training = graph.constant(node.input[2])
    return training is not None and not training.any()
