"""Run a scheme's rules over a graph: where each Q/DQ pair goes, before any number is known."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import onnx
from onnx import TensorProto

from edgevision.errors import ModelError
from edgevision.export.graph import Graph
from edgevision.quantization.rules import RULES, Placer
from edgevision.quantization.rules.base import Plan, Refusal
from edgevision.quantization.schemes import Scheme

_SMALL = 4096  # bytes; shapes and axes, whose values inference needs, are far smaller


NOTHING: Mapping[str, str] = MappingProxyType({})


def place(model: onnx.ModelProto, scheme: Scheme, keep_float: Mapping[str, str] = NOTHING) -> Plan:
    """Plan the Q/DQ pairs of ``scheme`` for the float ``model``; the model is not changed.

    Nodes are visited in the graph's (topological) order, so a rule may look at what was decided
    for those before it.

    Args:
        keep_float: nodes that no rule is asked about, by name (``node_name``), each with why.

    Raises:
        ModelError: shapes and types of the graph contradict each other.
    """
    graph = Graph(model)
    placer = Placer(graph, scheme, float32_tensors(model))
    for position, node in enumerate(graph.nodes):
        rule = scheme.rules.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        kept = keep_float.get(node_name(node))
        if kept is not None:
            placer.plan.outcomes[position] = Refusal(kept)
        elif rule is None:
            reason = scheme.float_reasons.get(
                node.op_type, f"scheme '{scheme.name}' has no rule for {node.op_type}"
            )
            placer.plan.outcomes[position] = Refusal(reason)
        else:
            placer.plan.outcomes[position] = RULES.get(rule)(node, placer)
    return placer.plan


def node_name(node: onnx.NodeProto) -> str:
    """What reports call ``node``: its name, or that of its first output where it has none."""
    return str(node.name or node.output[0])


def float32_tensors(model: onnx.ModelProto) -> set[str]:
    """Names of all activations that shape inference finds to be float32."""
    values = infer_shapes(model)
    return {v.name for v in values if v.type.tensor_type.elem_type == TensorProto.FLOAT}


def infer_shapes(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Type and, where it can be told, shape of every activation and of large constants.

    Raises:
        ModelError: shapes and types of the graph contradict each other.
    """
    try:
        inferred = onnx.shape_inference.infer_shapes(_without_weights(model))
    except onnx.shape_inference.InferenceError as error:
        raise ModelError(f"Shape inference fails: {error}") from error
    return [*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output]


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` with its large constants as inputs: inference copies the model several times."""
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    light.functions.extend(model.functions)
    graph = light.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    graph.value_info.extend(model.graph.value_info)
    listed = {value.name for value in graph.input}
    for tensor in model.graph.initializer:
        if tensor.ByteSize() < _SMALL:
            graph.initializer.append(tensor)
        elif tensor.name not in listed:
            value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            graph.input.append(value)
    return light
