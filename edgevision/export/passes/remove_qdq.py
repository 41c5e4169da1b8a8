"""Take the Q/DQ pairs of an already quantized graph out again."""

from __future__ import annotations

import numpy as np
import onnx

from edgevision.errors import ModelError
from edgevision.export.graph import Graph, set_initializer

_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
_NEVER_NEGATIVE = ("Relu", "Sigmoid", "Softmax", "HardSigmoid", "Abs", "Exp")
_KEEP_SIGN = (
    "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Reshape", "Flatten",
    "Transpose", "Squeeze", "Unsqueeze", "Identity", "Concat", "Add", "Slice", "Gather",
    _QUANTIZE, _DEQUANTIZE,
)  # fmt: skip


def remove_qdq(model: onnx.ModelProto) -> int:
    """Remove every QuantizeLinear and DequantizeLinear; run ``fold_constants`` before.

    Quantizers drop a Relu or Clip where the range of the Q behind it saturates in the same place.
    So a Q whose range begins at zero becomes a Clip to that range, unless what it reads is never
    negative as it is.

    Raises:
        ModelError: a scale is computed at run time or is another than the integers were written
            with, or integers enter or leave the graph.
    """
    graph = Graph(model)
    pairs = [node for node in graph.nodes if node.op_type in (_QUANTIZE, _DEQUANTIZE)]
    for node in pairs:
        _check(node, graph)
    for node in pairs:
        bounds = _saturation(node, graph) if node.op_type == _QUANTIZE else None
        if bounds is None:
            node.op_type = "Identity"
            del node.input[1:]
        else:
            node.op_type = "Clip"
            for slot, bound in enumerate(bounds, start=1):
                name = graph.fresh_name(f"{node.output[0]}_bound_{slot}")
                set_initializer(model, name, np.array(bound, np.float32))
                node.input[slot:] = [name]
        node.domain = ""
        del node.attribute[:]
    if pairs:
        del model.graph.value_info[:]  # what was between a Q and its DQ was an integer
    return len(pairs)


def writer_of(node: onnx.NodeProto | None, graph: Graph) -> onnx.NodeProto | None:
    """The QuantizeLinear whose integers the DequantizeLinear ``node`` reads, if it is one."""
    if node is None or node.op_type != _DEQUANTIZE:
        return None
    writer = graph.producers.get(node.input[0])
    return writer if writer is not None and writer.op_type == _QUANTIZE else None


def _check(node: onnx.NodeProto, graph: Graph) -> None:
    label = f"{node.op_type} '{node.name or node.output[0]}'"
    if any(name and graph.constant(name) is None for name in node.input[1:]):
        raise ModelError(f"{label}: its scale or zero point is computed at run time.")
    writer = writer_of(node, graph)
    if writer is not None:
        scales = [graph.constant(pair.input[1]) for pair in (node, writer)]
        if not np.array_equal(scales[0], scales[1]):  # type: ignore[arg-type]
            raise ModelError(f"{label} reads integers with another scale than they have.")
    if node.op_type == _QUANTIZE and node.output[0] in graph.outputs:
        raise ModelError(f"{label} makes the output '{node.output[0]}', which is integer.")
    if node.op_type == _DEQUANTIZE and node.input[0] in graph.inputs:
        raise ModelError(f"{label} reads the input '{node.input[0]}', which is integer.")


def _saturation(node: onnx.NodeProto, graph: Graph) -> tuple[float, float] | None:
    """Range of a Q that begins at zero, None where it does not, or cuts nothing off there."""
    scale = graph.constant(node.input[1])
    zero = graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if scale is None or scale.size != 1:
        return None
    if zero is None:
        zero = np.zeros(1, np.uint8)  # the operator's default
    if zero.dtype.kind not in "iu":
        return None
    info = np.iinfo(zero.dtype)
    if int(zero.reshape(-1)[0]) != info.min or _never_negative(node.input[0], graph, 0):
        return None
    return 0.0, float(scale.reshape(-1)[0]) * (info.max - info.min)


def _never_negative(name: str, graph: Graph, depth: int) -> bool:
    node = graph.producers.get(name)
    if node is None:
        value = graph.constant(name)
        # Calibration saw no negative input, so there was none to cut off.
        return name in graph.inputs if value is None else bool((value >= 0).all())
    if node.op_type in _NEVER_NEGATIVE:
        return True
    if node.op_type == "Clip":
        low = graph.constant(node.input[1]) if len(node.input) > 1 else None
        return low is not None and bool((low >= 0).all())
    if node.op_type not in _KEEP_SIGN or depth > 16:
        return False
    several = node.op_type in ("Concat", "Add")
    names = list(node.input) if several else list(node.input[:1])
    return all(_never_negative(one, graph, depth + 1) for one in names)
