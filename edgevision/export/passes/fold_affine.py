"""Fold multiplication and addition per channel into the layer before it.

Exporters write biases and scales as operators of their own: paddle's Conv → Add, Caffe's
BatchNorm → Mul → Add.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx

from edgevision.export.graph import Graph, attribute
from edgevision.export.passes.fold_batchnorm import Affine, fold_into, layer_before


def fold_affine(model: onnx.ModelProto) -> int:
    """Fold Mul, Add, Sub and Div by one constant a channel, or by one for all.

    The layer is a Conv, ConvTranspose or Gemm with constant weights that nothing else reads.
    """
    changed = 0
    for node in list(model.graph.node):
        if node.op_type not in ("Mul", "Add", "Sub", "Div"):
            continue
        graph = Graph(model)
        slot = 0 if node.input[1] in graph.initializers else 1
        if slot == 1 and node.op_type in ("Sub", "Div"):
            continue
        layer = _layer(node.input[slot], graph)
        affine = _affine(node, slot, layer, graph) if layer is not None else None
        if layer is None or affine is None:
            continue
        node.input[:] = [node.input[slot], node.input[1 - slot]]
        if layer_before(node, graph, affine) is None or not fold_into(model, graph, layer, affine):
            continue
        before = graph.producers[node.input[0]]
        before.output[list(before.output).index(node.input[0])] = node.output[0]
        model.graph.node.remove(node)
        changed += 1
    return changed


def _layer(name: str, graph: Graph) -> onnx.NodeProto | None:
    node = graph.producers.get(name)
    if node is not None and node.op_type == "MaxPool":
        node = graph.producers.get(node.input[0])
    return node if node is not None and len(node.input) > 1 else None


def _affine(node: onnx.NodeProto, slot: int, layer: onnx.NodeProto, graph: Graph) -> Affine | None:
    constant, weight = graph.constant(node.input[1 - slot]), graph.constant(layer.input[1])
    if constant is None or weight is None or constant.dtype != np.float32:
        return None
    found = _channels(layer, weight)
    if found is None:
        return None
    channels, rank = found
    # Broadcasting aligns last axes; per channel means that every axis but the second is 1.
    shape = (1,) * (rank - constant.ndim) + constant.shape
    if len(shape) != rank or shape not in ((1,) * rank, (1, channels, *(1,) * (rank - 2))):
        return None
    values = np.broadcast_to(constant.reshape(-1).astype(np.float64), (channels,))
    one, zero = np.ones(channels), np.zeros(channels)
    if node.op_type == "Div" and not values.all():
        return None
    pairs: dict[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]] = {
        "Mul": (values, zero),
        "Add": (one, values),
        "Sub": (one, -values),
    }
    return Affine(*(pairs[node.op_type] if node.op_type in pairs else (1 / values, zero)))


def _channels(layer: onnx.NodeProto, weight: npt.NDArray[np.float32]) -> tuple[int, int] | None:
    """Output channels of ``layer`` and the rank of what it makes."""
    if layer.op_type == "Conv":
        return weight.shape[0], weight.ndim
    if layer.op_type == "ConvTranspose":
        return weight.shape[1] * attribute(layer, "group", 1), weight.ndim
    if layer.op_type == "Gemm":
        return weight.shape[0 if attribute(layer, "transB", 0) else 1], 2
    return None
