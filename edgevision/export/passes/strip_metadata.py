"""Drop what says where and how a model was made: paths and stack traces leak, and differ."""

from __future__ import annotations

import onnx

from edgevision.export.graph import all_graphs


def strip_metadata(model: onnx.ModelProto) -> int:
    """Clear doc strings and metadata of the model, its graphs, nodes and tensors."""
    before = model.ByteSize()
    for field in ("doc_string", "metadata_props", "producer_version", "domain"):
        model.ClearField(field)
    model.graph.name = "main"
    for graph in all_graphs(model.graph):
        parts = [graph, *graph.node, *graph.initializer]
        for part in [*parts, *graph.input, *graph.output, *graph.value_info]:
            part.ClearField("doc_string")
            part.ClearField("metadata_props")
    return int(model.ByteSize() != before)
