"""Drop nodes and initializers that no output depends on."""

from __future__ import annotations

import onnx

from edgevision.export.graph import Graph


def drop_unused(model: onnx.ModelProto) -> int:
    """Remove dead nodes, unread initializers and stale shape notes."""
    graph = Graph(model)
    wanted = set(graph.outputs) | graph.captured
    kept: list[onnx.NodeProto] = []
    for node in reversed(model.graph.node):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(name for name in node.input if name)
    changed = len(model.graph.node) - len(kept)
    del model.graph.node[:]
    model.graph.node.extend(reversed(kept))

    initializers = [tensor for tensor in model.graph.initializer if tensor.name in wanted]
    changed += len(model.graph.initializer) - len(initializers)
    made = {name for node in kept for name in node.output}
    notes = [value for value in model.graph.value_info if value.name in made]
    for field, values in (("initializer", initializers), ("value_info", notes)):
        copies = [type(value).FromString(value.SerializeToString()) for value in values]
        model.graph.ClearField(field)
        getattr(model.graph, field).extend(copies)
    return changed
