"""Take channels out of an exported float network, as pruning would, for graphs that are only timed.

Weights keep the names of torch's parameters through the export, so widths that are told of torch's
layers can be applied to the ONNX file in milliseconds, without tracing and exporting anew. Which
channels leave makes no difference to the time: the last ones do.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from edgevision.errors import ModelError
from edgevision.export.graph import Graph, attribute, set_initializer
from edgevision.pruning.cost import Width

Side = tuple[int, int] | None  # channels kept, of


def narrow_onnx(model: onnx.ModelProto, widths: Mapping[str, Width]) -> onnx.ModelProto:
    """A copy of ``model`` whose layers have ``widths``, by torch's name of a layer or parameter.

    Layers that the export folded into others are passed over.

    Raises:
        ModelError: a weight does not have the shape that its width tells.
    """
    narrow = onnx.ModelProto()
    narrow.CopyFrom(model)
    del narrow.graph.value_info[:]  # shapes of the wide network
    graph = Graph(narrow)
    owned: dict[str, list[str]] = {}
    for name in graph.initializers:
        owned.setdefault(name.rpartition(".")[0], []).append(name)
    for name, width in widths.items():
        for tensor in [name] if name in graph.initializers else owned.get(name, []):
            _narrow(graph, tensor, width)
    for node in graph.nodes:
        if node.op_type == "Reshape":
            _flatten_any_width(graph, node)
    return narrow


def _narrow(graph: Graph, name: str, width: Width) -> None:
    use = next(iter(graph.uses.get(name, [])), None)
    tensor = graph.initializers[name]
    if use is None:
        return
    node, slot = use
    if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul") and slot <= 1:
        _cut(graph, name, _axes(node, slot, width, list(tensor.dims)))
        bias = node.input[2] if len(node.input) > 2 else ""
        if bias in graph.initializers and bias.rpartition(".")[0] != name.rpartition(".")[0]:
            _cut(graph, bias, {0: width.outputs})  # that of a batch norm folded into the layer
    elif width.outputs is not None:
        places = [axis for axis, size in enumerate(tensor.dims) if size == width.outputs[1]]
        if places:  # else one value for all channels
            _cut(graph, name, {places[0]: width.outputs})


def _axes(node: onnx.NodeProto, slot: int, width: Width, shape: list[int]) -> dict[int, Side]:
    """Axis of a layer's weight → its width."""
    if node.op_type in ("Gemm", "MatMul"):
        swapped = attribute(node, "transB", 0) if slot else not attribute(node, "transA", 0)
        return (
            {0: width.outputs, 1: width.inputs} if swapped else {0: width.inputs, 1: width.outputs}
        )
    groups = int(attribute(node, "group", 1))
    if groups > 1 and shape[1] == 1 and width.outputs and width.outputs[1] == groups:
        for item in node.attribute:  # depthwise
            if item.name == "group":
                item.i = width.outputs[0]
        return {0: width.outputs}
    if node.op_type == "Conv":
        return {0: width.outputs, 1: _each(width.inputs, groups)}
    return {0: width.inputs, 1: _each(width.outputs, groups)}


def _each(side: Side, groups: int) -> Side:
    return None if side is None else (side[0] // groups, side[1] // groups)


def _cut(graph: Graph, name: str, axes: Mapping[int, Side]) -> None:
    array = graph.constant(name)
    assert array is not None
    for axis, side in axes.items():
        if side is None:
            continue
        kept, total = side
        if axis >= array.ndim or array.shape[axis] != total:
            raise ModelError(
                f"'{name}' has shape {array.shape} in the exported graph, "
                f"expected {total} on axis {axis}."
            )
        array = array.take(range(kept), axis=axis)
    set_initializer(graph.model, name, array)


def _flatten_any_width(graph: Graph, node: onnx.NodeProto) -> None:
    """Let a reshape to (batch, width), as a flatten is exported, take what width there is."""
    shape = graph.constant(node.input[1])
    if shape is None or len(shape) != 2 or shape[0] != -1:
        return
    node.input[1] = graph.fresh_name(f"{node.input[1]}_any_width")
    set_initializer(graph.model, node.input[1], np.array([0, -1], np.int64))
    for item in node.attribute:
        if item.name == "allowzero":
            item.i = 0
