"""Operators without an integer kernel, written out into those that have one.

``HardSwish(x)`` is ``x * gate(x)`` and ``HardSigmoid(x)`` is ``gate(x)`` with ``gate(x) =
clamp(alpha * x + beta, 0, 1)``. On integers alpha is folded into the scale with which ``x`` is
read a second time, beta is added, and the clamping is what 8-bit integers do by themselves at the
ends of their range.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import helper

from edgevision.export.graph import Graph, attribute, set_initializer
from edgevision.export.passes.unused import drop_unused
from edgevision.quantization.equivalence import QDQ
from edgevision.types import GATE

# The gate of HardSwish has 254 steps from 0 to 1, and one below 0: a half, the gate of every small
# value, must be exact, or each layer would change the gain. So it does not
# end at 0 exactly, and is right only where the integers of its input end at -3.
GATE_STEPS = 254


def gate_line(node: onnx.NodeProto) -> tuple[float, float] | None:
    """``(alpha, beta)`` of what ``node`` clamps to 0 and 1; None where there is no such thing."""
    if node.op_type == "HardSwish":
        return 1 / 6, 0.5
    if node.op_type == "HardSigmoid":
        return attribute(node, "alpha", 0.2), attribute(node, "beta", 0.5)
    return None


def useful_range(graph: Graph, name: str) -> tuple[float, float]:
    """Between which values of the tensor ``name`` its readers tell a difference.

    Beyond it they are flat, so quantization may clip there and loses nothing.
    """
    everything = -np.inf, np.inf
    uses = graph.uses.get(name, [])
    if not uses or name in graph.outputs or name in graph.captured:
        return everything
    low, high = np.inf, -np.inf
    for use in uses:
        line = gate_line(use.node)
        if line is None or line[0] <= 0:
            return everything
        alpha, beta = line
        low = min(low, -beta / alpha)
        high = max(high, np.inf if use.node.op_type == "HardSwish" else (1 - beta) / alpha)
    return low, high


def write_out(model: onnx.ModelProto, positions: Collection[int]) -> onnx.ModelProto:
    """A copy of a Q/DQ ``model`` with the integer forms of its nodes at ``positions``.

    Only of nodes that read a DequantizeLinear and are read by a QuantizeLinear alone; others
    compute in float. What takes a node's place bears its name, with ``GATE`` where it computes
    the gate.

    Args:
        positions: among the nodes that are no Q or DQ, as in the float graph.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = Graph(result)
    nodes: list[onnx.NodeProto] = []
    position = -1
    for node in graph.nodes:
        position += node.op_type not in QDQ
        source = graph.producers.get(node.input[0]) if node.input else None
        reader = graph.only_reader(node.output[0])
        line = gate_line(node) if position in positions else None
        if (
            line is None
            or min(line) <= 0
            or (source is None or source.op_type != "DequantizeLinear")
            or (reader is None or reader.op_type != "QuantizeLinear")
            or (node.op_type == "HardSigmoid" and not _inside_gate(graph, reader))
            or (node.op_type == "HardSwish" and not _not_far_below(graph, source))
        ):
            nodes.append(node)
            continue
        nodes += _form(result, graph, node, source, line)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del result.graph.node[:]
    result.graph.node.extend(copies)
    drop_unused(result)
    return result


def ends_where_flat(lowest: float, step: float) -> bool:
    """Whether integers that stand for ``lowest`` and more end where hard-swish becomes flat."""
    return lowest >= -3 - step


def _not_far_below(graph: Graph, dequantize: onnx.NodeProto) -> bool:
    scale, zero = graph.constant(dequantize.input[1]), graph.constant(dequantize.input[2])
    if scale is None or zero is None or scale.ndim:
        return False
    lowest = (int(np.iinfo(zero.dtype).min) - int(zero)) * float(scale)
    return ends_where_flat(lowest, float(scale))


def _inside_gate(graph: Graph, quantize: onnx.NodeProto) -> bool:
    """Whether the integers of ``quantize`` span no more than 0 to 1, so that they clamp there."""
    scale, zero = graph.constant(quantize.input[1]), graph.constant(quantize.input[2])
    if scale is None or zero is None or scale.ndim:
        return False
    limits = np.iinfo(zero.dtype)
    span = float(scale) * (limits.max - limits.min)
    return int(zero) == limits.min and span <= 1 + 1e-6


def _form(
    model: onnx.ModelProto,
    graph: Graph,
    node: onnx.NodeProto,
    source: onnx.NodeProto,
    line: tuple[float, float],
) -> list[onnx.NodeProto]:
    output, stem = node.output[0], graph.fresh_name(f"{node.output[0]}{GATE}")
    integers, scale, zero = source.input[:3]
    kind = graph.initializers[zero].data_type
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    alpha, beta = line
    set_initializer(model, f"{stem}_line_scale", np.float32(alpha) * graph.constant(scale))
    set_initializer(model, f"{stem}_one", np.array(1, dtype))
    set_initializer(model, f"{stem}_offset_scale", np.array(beta, np.float32))
    set_initializer(model, f"{stem}_offset_zero_point", np.array(0, dtype))
    name = node.name or output
    alone = node.op_type == "HardSigmoid"
    sum_of, sum_name = (output, name) if alone else (f"{stem}_sum", f"{name}{GATE}")
    form = [
        _dequantize(f"{stem}_line", integers, f"{stem}_line_scale", zero),
        _dequantize(
            f"{stem}_offset", f"{stem}_one", f"{stem}_offset_scale", f"{stem}_offset_zero_point"
        ),
        helper.make_node("Add", [f"{stem}_line", f"{stem}_offset"], [sum_of], sum_name),
    ]
    if alone:
        return form
    zero_point = int(np.iinfo(dtype).min) + 1
    set_initializer(model, f"{stem}_scale", np.array(1 / GATE_STEPS, np.float32))
    set_initializer(model, f"{stem}_zero_point", np.array(zero_point, dtype))
    numbers = [f"{stem}_scale", f"{stem}_zero_point"]
    return [
        *form,
        helper.make_node(
            "QuantizeLinear",
            [sum_of, *numbers],
            [f"{stem}_quantized"],
            f"{stem}_QuantizeLinear",
        ),
        _dequantize(stem, f"{stem}_quantized", *numbers),
        helper.make_node("Mul", [node.input[0], stem], [output], name),
    ]


def _dequantize(output: str, integers: str, scale: str, zero: str) -> onnx.NodeProto:
    return helper.make_node(
        "DequantizeLinear", [integers, scale, zero], [output], f"{output}_DequantizeLinear"
    )
