"""What ONNX Runtime's optimizer fused and saved into a file becomes standard operators again."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgevision.errors import ModelError
from edgevision.export.graph import Graph, all_graphs, attribute

_DOMAIN = "com.microsoft"
_LAYOUTS = ("com.microsoft.nchwc", "com.ms.internal.nhwc")
_LAYERS = {"FusedConv": "Conv", "FusedGemm": "Gemm"}
# FusedConv gives its activation's parameters in a list, FusedGemm each under its name.
_LISTED = {"LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta"), "Clip": ("min", "max")}
_NAMED = ("alpha", "beta", "gamma")


def split_fused(model: onnx.ModelProto) -> int:
    """Write out FusedConv (its fourth input is added before the activation), FusedGemm, QuickGelu.

    Returns:
        How many were found.

    Raises:
        ModelError: layers are in the layout of one processor, which no other runtime reads.
    """
    graph = Graph(model)
    _refuse_layouts(model)
    nodes: list[onnx.NodeProto] = []
    found = 0
    for node in model.graph.node:
        parts: list[onnx.NodeProto] = []
        if node.domain == _DOMAIN and node.op_type in _LAYERS:
            parts = _layer(node, graph)
        elif node.domain == _DOMAIN and node.op_type == "QuickGelu":
            parts = _quick_gelu(node, graph)
        found += bool(parts)
        nodes += parts or [node]
    if found:
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        if all(node.domain != _DOMAIN for each in all_graphs(model.graph) for node in each.node):
            kept = [each for each in model.opset_import if each.domain != _DOMAIN]
            del model.opset_import[:]
            model.opset_import.extend(kept)
    return found


def _refuse_layouts(model: onnx.ModelProto) -> None:
    bound = [node for node in model.graph.node if node.domain in _LAYOUTS]
    if bound:
        raise ModelError(
            f"{len(bound)} of its nodes, '{bound[0].name}' first, are in ONNX Runtime's own layout "
            f"for one processor ({bound[0].domain}).",
            hint="Give the model as it was before, or save it with ORT_ENABLE_EXTENDED.",
        )


def _layer(node: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto]:
    layer = onnx.NodeProto()
    layer.CopyFrom(node)
    layer.domain, layer.op_type = "", _LAYERS[node.op_type]
    kept = [each for each in node.attribute if not each.name.startswith("activation")]
    del layer.attribute[:]
    layer.attribute.extend(kept)
    parts = [layer]
    if node.op_type == "FusedConv":
        del layer.input[3:]
        if len(node.input) > 3 and node.input[3]:
            parts.append(helper.make_node("Add", ["", node.input[3]], [""]))
    if attribute(node, "activation", b""):
        parts.append(_activation(node, graph))
    for number, (before, after) in enumerate(pairwise(parts)):
        between = graph.fresh_name(f"{node.output[0]}_part_{number}")
        before.output[0] = after.input[0] = between
        after.name = f"{node.name or node.output[0]}_{after.op_type}"
    parts[-1].output[0] = node.output[0]
    return parts


def _activation(node: onnx.NodeProto, graph: Graph) -> onnx.NodeProto:
    """The activation of a fused layer, with an empty first input and output."""
    operator = attribute(node, "activation").decode()
    values = {name: attribute(node, f"activation_{name}") for name in _NAMED}
    listed = attribute(node, "activation_params", [])
    values |= dict(zip(_LISTED.get(operator, ()), listed, strict=False))
    given = {name: value for name, value in values.items() if value is not None}
    bounds = []
    if operator == "Clip":
        bounds = [_number(graph, f"{node.output[0]}_{name}", given[name]) for name in given]
        given = {}
    activation = helper.make_node(operator, ["", *bounds], [""])
    activation.attribute.extend(helper.make_attribute(name, given[name]) for name in given)
    return activation


def _quick_gelu(node: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto]:
    """``x * Sigmoid(alpha * x)``; with alpha 1 that is SiLU."""
    source, output, alpha = node.input[0], node.output[0], attribute(node, "alpha", 1.702)
    parts = []
    if alpha != 1:
        factor = _number(graph, f"{output}_alpha", alpha)
        scaled = graph.fresh_name(f"{output}_scaled")
        parts.append(helper.make_node("Mul", [source, factor], [scaled], f"{node.name}_scale"))
        source = scaled
    gate = graph.fresh_name(f"{output}_gate")
    parts.append(helper.make_node("Sigmoid", [source], [gate], f"{node.name}_gate"))
    parts.append(helper.make_node("Mul", [node.input[0], gate], [output], f"{node.name}_product"))
    return parts


def _number(graph: Graph, stem: str, value: float) -> str:
    """Name of a new float32 constant."""
    name = graph.fresh_name(stem)
    constant = numpy_helper.from_array(np.array(value, np.float32), name)
    graph.model.graph.initializer.append(constant)
    return name
