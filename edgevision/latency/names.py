"""Tensor names that two exports of one network share, whatever its widths.

The exporter draws names from counters that depend on what it traced: with one head left it writes
another view, and every name after that moves on by one, to another tensor of the whole network.
What holds is the sequence of operators that depend on the image. Those that do not, such as a table
of positions that is transposed, may be computed at export where they have become small enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import onnx

from edgevision.errors import ModelError
from edgevision.export.graph import Graph, all_graphs


def image_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes that depend on an input of the graph, in its order."""
    graph = Graph(model)
    reached = set(graph.inputs)
    found = []
    for node in graph.nodes:
        if not reached.isdisjoint(node.input):
            found.append(node)
            reached.update(name for name in node.output if name)
    return found


def take_names(model: onnx.ModelProto, whole: onnx.ModelProto, groups: Sequence[str]) -> None:
    """Give the activations of ``model`` the names that they have in ``whole``, in place.

    Args:
        model: a narrower export of the same network.
        groups: that were narrowed, for the message.

    Raises:
        ModelError: it is no such export: its operators are others.
    """
    names: dict[str, str] = {}
    for number, (node, wanted) in enumerate(zip_longest(image_nodes(model), image_nodes(whole))):
        if node is None or wanted is None or node.op_type != wanted.op_type:
            more = f" and {len(groups) - 1} more" if len(groups) > 1 else ""
            raise ModelError(
                f"Narrowed at '{groups[0]}'{more}, the network is exported with other operators "
                f"than whole, so what its time is made of cannot be told: expected {_told(wanted)} "
                f"as operator {number} that depends on the image, got {_told(node)}.",
                hint="Leave such layers whole (prune.ignored_layers), or prune to a share of the "
                "MACs instead.",
            )
        names.update(zip(node.output, wanted.output, strict=True))
    taken, graph = set(names.values()), Graph(model)
    for name in [*graph.initializers, *graph.producers]:
        if name in taken and name not in names:
            names[name] = graph.fresh_name(f"{name}_constant")
    for tensor in model.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for value in model.graph.value_info:
        value.name = names.get(value.name, value.name)
    for part in all_graphs(model.graph):
        for node in part.node:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]


def _told(node: onnx.NodeProto | None) -> str:
    return "none" if node is None else f"{node.op_type} '{node.output[0]}'"
