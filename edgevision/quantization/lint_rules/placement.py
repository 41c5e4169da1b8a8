"""Lint of where Q/DQ stands."""

from __future__ import annotations

import onnx

from edgevision.quantization.lint_rules.base import LAYERS, Finding, QdqGraph
from edgevision.quantization.schemes import Scheme


def half_quantized(graph: QdqGraph, scheme: Scheme) -> list[Finding]:
    """A layer has both factors quantized or neither."""
    found = []
    for node in graph.graph.nodes:
        if node.op_type not in LAYERS:
            continue
        missing = [name for name in node.input[:2] if graph.dequantizer(name) is None]
        if len(missing) == 1:
            message = f"'{missing[0]}' is float, so the whole layer is; quantize it too"
            found.append(Finding("half-quantized", node.name, message, "warning"))
    return found


def before_activation(graph: QdqGraph, scheme: Scheme) -> list[Finding]:
    """No Q/DQ between a layer and what is fused into it."""
    found = []
    fused = (*scheme.fused_activations, "BatchNormalization")
    for quantizer in graph.quantizers:
        layer = graph.graph.producers.get(quantizer.input[0])
        if layer is None or layer.op_type not in LAYERS:
            continue
        readers = _behind(quantizer, graph)
        if any(reader.op_type not in fused for reader in readers):
            continue  # read before the activation as well, so nothing fuses anyway
        for use in readers:
            if use.op_type in fused:
                place = f"between {layer.op_type} '{layer.name}' and {use.op_type}"
                message = f"{place}: blocks fusion; move it behind"
                found.append(Finding("before-activation", quantizer.name, message))
    return found


def before_resize(graph: QdqGraph, scheme: Scheme) -> list[Finding]:
    """Q/DQ stands behind a Resize, not in front of it."""
    return [
        Finding(
            "before-resize",
            quantizer.name,
            f"in front of Resize '{node.name}': stays float; move it behind",
        )
        for quantizer in graph.quantizers
        for node in _behind(quantizer, graph)
        if node.op_type in ("Resize", "Upsample")
    ]


def both_add_branches(graph: QdqGraph, scheme: Scheme) -> list[Finding]:
    """The branch of a residual Add that comes out of a Conv is left alone."""
    found = []
    for node in graph.graph.nodes:
        pairs = [graph.dequantizer(name) for name in node.input]
        if node.op_type != "Add" or any(pair is None or pair in graph.constants for pair in pairs):
            continue
        for pair in pairs:
            layer = _layer_in_front(pair, graph) if pair is not None else None
            if layer is not None:
                why = f"both inputs are quantized: '{layer.name}' cannot take the Add in"
                message = f"{why}; leave its side float"
                found.append(Finding("both-add-branches", node.name, message))
                break
    return found


def concat_scales(graph: QdqGraph, scheme: Scheme) -> list[Finding]:
    """Quantized inputs of a Concat have one scale."""
    found = []
    for node in graph.graph.nodes:
        pairs = [graph.dequantizer(name) for name in node.input]
        scales = [graph.scale(pair) for pair in pairs if pair is not None]
        known = {value.tobytes() for value in scales if value is not None}
        if node.op_type == "Concat" and len(known) > 1:
            message = (
                f"its inputs have {len(known)} different scales, so each is converted; share one"
            )
            found.append(Finding("concat-scales", node.name, message, "warning"))
    return found


def output_not_quantized(graph: QdqGraph, scheme: Scheme) -> list[Finding]:
    """An operator with quantized inputs gives its output to a Q, or runs in float."""
    found = []
    for node in graph.graph.nodes:
        if node.op_type not in scheme.quantized_outputs or not node.input:
            continue
        if graph.dequantizer(node.input[0]) is None:
            continue
        name = node.output[0]
        reader = graph.graph.only_reader(name)
        if reader is not None and reader.op_type in scheme.fused_activations:
            name = reader.output[0]
        uses = graph.graph.uses.get(name, [])
        if name in graph.graph.outputs or any(u.node.op_type != "QuantizeLinear" for u in uses):
            message = f"'{name}' is read in float, so {node.op_type} is computed in float"
            found.append(Finding("output-not-quantized", node.name, message, "warning"))
    return found


def _behind(quantizer: onnx.NodeProto, graph: QdqGraph) -> list[onnx.NodeProto]:
    """Nodes that read what ``quantizer`` and its DequantizeLinear pass on, as their first input."""
    pairs = [use.node for use in graph.graph.uses.get(quantizer.output[0], [])]
    return [use.node for pair in pairs for use in graph.readers(pair) if use.slot == 0]


def _layer_in_front(pair: onnx.NodeProto, graph: QdqGraph) -> onnx.NodeProto | None:
    """The Conv whose output goes into this pair and nowhere else."""
    quantizer = graph.graph.producers.get(pair.input[0])
    if quantizer is None or len(graph.readers(pair)) != 1:
        return None
    layer = graph.graph.producers.get(quantizer.input[0])
    fusable = layer is not None and layer.op_type in ("Conv", "ConvTranspose")
    return layer if fusable and graph.graph.only_reader(quantizer.input[0]) is quantizer else None
