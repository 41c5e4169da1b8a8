"""An ONNX graph with its edges looked up: who makes a tensor, who reads it, which are constant."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper


class Use(NamedTuple):
    """One reading of a tensor: ``node.input[slot]``."""

    node: onnx.NodeProto
    slot: int


class Graph:
    """Index over ``model.graph``. Build a new one after changing nodes or their edges.

    Nodes inside subgraphs (If, Loop, Scan) are not indexed; the outer tensors that they read are
    in ``captured`` and must keep their names and values. Initializers count as constants even
    where an old model lists them among its inputs as well.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        graph = model.graph
        self.nodes = list(graph.node)
        self.initializers = {tensor.name: tensor for tensor in graph.initializer}
        self.producers: dict[str, onnx.NodeProto] = {}
        self.uses: dict[str, list[Use]] = defaultdict(list)
        self.captured: set[str] = set()
        for node in self.nodes:
            for name in node.output:
                if name:
                    self.producers[name] = node
            for slot, name in enumerate(node.input):
                if name:
                    self.uses[name].append(Use(node, slot))
            for attribute in node.attribute:
                for inner in _subgraphs(attribute):
                    self.captured |= _outer_names(inner)
        self.outputs = {value.name for value in graph.output}
        self.inputs = [v.name for v in graph.input if v.name not in self.initializers]

    def constant(self, name: str) -> npt.NDArray[Any] | None:
        """The initializer called ``name`` as an array, None where it is no initializer."""
        tensor = self.initializers.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def only_reader(self, name: str) -> onnx.NodeProto | None:
        """The node that alone reads ``name``; None with several, none, or where it is an output."""
        uses = self.uses.get(name, [])
        if len(uses) != 1 or name in self.outputs or name in self.captured:
            return None
        return uses[0].node

    def fresh_name(self, stem: str) -> str:
        """``stem``, or ``stem`` with the lowest number that makes it unused in the graph."""
        taken = self.producers.keys() | self.initializers.keys() | self.uses.keys()
        taken |= {value.name for value in self.model.graph.input} | self.captured
        name, number = stem, 1
        while name in taken:
            name, number = f"{stem}_{number}", number + 1
        return name


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """Value of the attribute ``name`` of ``node``, ``default`` where it is absent."""
    for item in node.attribute:
        if item.name == name:
            return onnx.helper.get_attribute_value(item)
    return default


def set_initializer(model: onnx.ModelProto, name: str, array: npt.NDArray[Any]) -> None:
    """Add the initializer ``name``, or replace its value."""
    tensor = numpy_helper.from_array(np.asarray(array, order="C"), name)
    for old in model.graph.initializer:
        if old.name == name:
            old.CopyFrom(tensor)
            return
    model.graph.initializer.append(tensor)


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the standard operator set that ``model`` imports, 0 where it imports none."""
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)


def all_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """``graph`` and every graph nested in its nodes' attributes."""
    yield graph
    for node in graph.node:
        for item in node.attribute:
            for inner in _subgraphs(item):
                yield from all_graphs(inner)


def _subgraphs(item: onnx.AttributeProto) -> list[onnx.GraphProto]:
    found = list(item.graphs)
    if item.type == onnx.AttributeProto.GRAPH:
        found.append(item.g)
    return found


def _outer_names(graph: onnx.GraphProto) -> set[str]:
    made = {v.name for v in graph.input} | {t.name for t in graph.initializer}
    made |= {name for node in graph.node for name in node.output}
    read = {name for node in graph.node for name in node.input if name}
    read |= {value.name for value in graph.output}
    for node in graph.node:
        for item in node.attribute:
            for inner in _subgraphs(item):
                read |= _outer_names(inner)
    return read - made
