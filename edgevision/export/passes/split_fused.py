"""What ONNX Runtime's optimizer fused and saved into a file becomes standard operators again."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgevision.export.graph import attribute

_DOMAIN = "com.microsoft"
_LAYERS = {"FusedConv": "Conv", "FusedGemm": "Gemm"}
_PARAMETERS = {"LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta"), "Elu": ("alpha",)}


def split_fused(model: onnx.ModelProto) -> int:
    """Write out FusedConv (its fourth input is added before the activation), FusedGemm, QuickGelu.

    Returns:
        How many were found.
    """
    nodes: list[onnx.NodeProto] = []
    found = 0
    for node in model.graph.node:
        parts: list[onnx.NodeProto] = []
        if node.domain == _DOMAIN and node.op_type in _LAYERS:
            parts = _layer(node, model.graph)
        elif node.domain == _DOMAIN and node.op_type == "QuickGelu":
            parts = _quick_gelu(node, model.graph)
        found += bool(parts)
        nodes += parts or [node]
    if found:
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        if all(node.domain != _DOMAIN for node in nodes):
            kept = [each for each in model.opset_import if each.domain != _DOMAIN]
            del model.opset_import[:]
            model.opset_import.extend(kept)
    return found


def _layer(node: onnx.NodeProto, graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    activation = attribute(node, "activation", b"").decode()
    values = list(attribute(node, "activation_params", []))
    own = {name: attribute(node, f"activation_{name}", None) for name in ("alpha", "beta", "gamma")}
    values = values or [value for value in own.values() if value is not None]
    layer = onnx.NodeProto()
    layer.CopyFrom(node)
    layer.domain, layer.op_type = "", _LAYERS[node.op_type]
    kept = [each for each in node.attribute if not each.name.startswith("activation")]
    del layer.attribute[:]
    layer.attribute.extend(kept)
    added = node.input[3] if len(node.input) > 3 else ""
    del layer.input[3:]
    parts = [layer]
    if added:
        parts.append(helper.make_node("Add", ["", added], [""], name=f"{node.name}_add"))
    if activation:
        parts.append(_activation(activation, values, node.name, graph))
    for number, (before, after) in enumerate(pairwise(parts)):
        before.output[0] = after.input[0] = f"{node.output[0]}_part_{number}"
    parts[-1].output[0] = node.output[0]
    return parts


def _activation(
    operator: str, values: list[float], name: str, graph: onnx.GraphProto
) -> onnx.NodeProto:
    """The activation with an empty first input and output."""
    bounds = []
    if operator == "Clip":
        for label, value in zip(("min", "max"), values, strict=False):
            bounds.append(f"{name}_{label}")
            array = np.array(value, np.float32)
            graph.initializer.append(numpy_helper.from_array(array, bounds[-1]))
    parameters = dict(zip(_PARAMETERS.get(operator, ()), values, strict=False))
    node = helper.make_node(operator, ["", *bounds], [""], f"{name}_{operator}")
    node.attribute.extend(helper.make_attribute(key, value) for key, value in parameters.items())
    return node


def _quick_gelu(node: onnx.NodeProto, graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """``x * Sigmoid(alpha * x)``; with alpha 1 that is SiLU."""
    source, output, alpha = node.input[0], node.output[0], attribute(node, "alpha", 1.702)
    parts = []
    if alpha != 1:
        factor = f"{output}_alpha"
        graph.initializer.append(numpy_helper.from_array(np.array(alpha, np.float32), factor))
        scaled = f"{output}_scaled"
        parts.append(helper.make_node("Mul", [source, factor], [scaled], f"{node.name}_scale"))
        source = scaled
    gate = f"{output}_gate"
    parts.append(helper.make_node("Sigmoid", [source], [gate], f"{node.name}_gate"))
    parts.append(helper.make_node("Mul", [node.input[0], gate], [output], f"{node.name}_product"))
    return parts
