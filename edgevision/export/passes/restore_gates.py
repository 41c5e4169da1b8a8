"""Turn what stands for HardSwish and HardSigmoid on integers into these operators again."""

from __future__ import annotations

from math import isclose

import onnx
from onnx import helper

from edgevision.export.graph import Graph
from edgevision.export.passes.remove_qdq import writer_of
from edgevision.export.passes.unused import drop_unused


def restore_gates(model: onnx.ModelProto) -> int:
    """Undo ``quantization.integer_forms``; run ``fold_constants`` before, ``remove_qdq`` behind.

    An Add of a constant to integers that are read with another scale than they were written with
    is a hard sigmoid of what was written: its clamping to 0 and 1 is in the Q behind it. Multiplied
    with the same integers it is a hard swish.

    Returns:
        How many were found.
    """
    graph = Graph(model)
    found = 0
    for node in graph.nodes:
        line = _line(node, graph) if node.op_type == "Add" else None
        if line is None:
            continue
        writer, alpha, beta = line
        found += 1
        product = _product(node, writer, graph)
        if product is not None and isclose(alpha, 1 / 6, rel_tol=1e-4) and isclose(beta, 0.5):
            product.op_type = "HardSwish"
            product.input[:] = writer.input[:1]
        else:
            node.op_type = "HardSigmoid"
            node.input[:] = writer.input[:1]
            node.attribute.append(helper.make_attribute("alpha", alpha))
            node.attribute.append(helper.make_attribute("beta", beta))
    if found:
        drop_unused(model)
    return found


def _line(node: onnx.NodeProto, graph: Graph) -> tuple[onnx.NodeProto, float, float] | None:
    """The Q that wrote the integers, the factor between the scales, and the constant."""
    for slot in (0, 1):
        constant = graph.constant(node.input[1 - slot])
        reader = graph.producers.get(node.input[slot])
        writer = writer_of(reader, graph)
        if constant is None or constant.size != 1 or reader is None or writer is None:
            continue
        scales = [graph.constant(pair.input[1]) for pair in (reader, writer)]
        if scales[0] is None or scales[1] is None or scales[0].size != 1 or scales[1].size != 1:
            continue
        if scales[0] != scales[1]:
            return writer, float(scales[0]) / float(scales[1]), float(constant.reshape(-1)[0])
    return None


def _product(gate: onnx.NodeProto, writer: onnx.NodeProto, graph: Graph) -> onnx.NodeProto | None:
    """The Mul of ``gate``, behind its own Q/DQ pair, with the integers of ``writer``."""
    node: onnx.NodeProto | None = gate
    for operator in ("QuantizeLinear", "DequantizeLinear", "Mul"):
        node = graph.only_reader(node.output[0]) if node is not None else None
        if node is None or node.op_type != operator:
            return None
    assert node is not None
    readers = [graph.producers.get(name) for name in node.input]
    same = [r for r in readers if r is not None and r.input[0] == writer.output[0]]
    return node if same else None
