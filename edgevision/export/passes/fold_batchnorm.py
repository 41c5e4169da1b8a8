"""Fold BatchNormalization into the Conv, ConvTranspose or Gemm before it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx

from edgevision.export.graph import Graph, attribute, set_initializer

Float64 = npt.NDArray[np.float64]


class Affine(NamedTuple):
    """Per channel ``y = scale * x + shift``, both (C,) float64."""

    scale: Float64
    shift: Float64


def fold_batchnorm(model: onnx.ModelProto) -> int:
    """Fold every BatchNormalization that follows a layer with constant weights.

    ``y = (x - mean) * gamma / sqrt(var + eps) + beta`` is taken into weights and bias, computed
    in float64. A MaxPool in between is no obstacle where every scale is above zero, since
    a rising function commutes with max. Layers that anything else reads are left alone.
    """
    changed = 0
    for norm in list(model.graph.node):
        if norm.op_type != "BatchNormalization" or attribute(norm, "training_mode", 0):
            continue
        graph = Graph(model)
        affine = _affine(norm, graph)
        if affine is None or any(norm.output[1:]):
            continue
        layer = layer_before(norm, graph, affine)
        if layer is None or not fold_into(model, graph, layer, affine):
            continue
        before = graph.producers[norm.input[0]]
        before.output[list(before.output).index(norm.input[0])] = norm.output[0]
        model.graph.node.remove(norm)
        changed += 1
    return changed


def _affine(norm: onnx.NodeProto, graph: Graph) -> Affine | None:
    found = [graph.constant(name) for name in norm.input[1:5]]
    if any(array is None for array in found):
        return None
    gamma, beta, mean, var = (np.asarray(array, np.float64) for array in found)
    scale = gamma / np.sqrt(var + attribute(norm, "epsilon", 1e-5))
    return Affine(scale, beta - mean * scale)


def layer_before(norm: onnx.NodeProto, graph: Graph, affine: Affine) -> onnx.NodeProto | None:
    """The layer that alone feeds ``norm``'s first input, through a MaxPool where that is exact."""
    name = norm.input[0]
    if graph.only_reader(name) is not norm:
        return None
    node = graph.producers.get(name)
    if node is not None and node.op_type == "MaxPool" and len(node.output) == 1:
        if not (affine.scale > 0).all() or graph.only_reader(node.input[0]) is not node:
            return None
        node = graph.producers.get(node.input[0])
    return node if node is not None and node.op_type in _SCALERS else None


def fold_into(model: onnx.ModelProto, graph: Graph, layer: onnx.NodeProto, affine: Affine) -> bool:
    """Take ``affine`` into weights and bias of ``layer``; False where they are not constant."""
    weight = graph.constant(layer.input[1])
    has_bias = len(layer.input) > 2 and bool(layer.input[2])
    bias = graph.constant(layer.input[2]) if has_bias else np.zeros(len(affine.scale), np.float32)
    if weight is None or bias is None or weight.dtype != np.float32:
        return False
    gain = attribute(layer, "beta", 1.0) if layer.op_type == "Gemm" else 1.0
    if bias.size not in (1, len(affine.scale)):
        return False  # a Gemm whose C varies over rows
    old = np.broadcast_to(bias.reshape(-1).astype(np.float64) * gain, affine.scale.shape)
    scaled = _SCALERS[layer.op_type](layer, weight.astype(np.float64), affine.scale)

    _own(model, graph, layer, 1, scaled.astype(np.float32), f"{layer.input[1]}_folded")
    stem = layer.input[2] if has_bias else f"{layer.input[1]}_bias"
    if not has_bias:
        del layer.input[2:]
        layer.input.append("")
    shifted = old * affine.scale + affine.shift
    _own(model, graph, layer, 2, shifted.astype(np.float32), f"{stem}_folded")
    for item in list(layer.attribute):
        if layer.op_type == "Gemm" and item.name == "beta":
            layer.attribute.remove(item)
    return True


def _own(
    model: onnx.ModelProto,
    graph: Graph,
    layer: onnx.NodeProto,
    index: int,
    array: npt.NDArray[np.float32],
    stem: str,
) -> None:
    """Give ``layer.input[index]`` the value ``array`` without touching other readers."""
    name = layer.input[index]
    if not name or len(graph.uses[name]) > 1 or name in graph.captured | graph.outputs:
        name = graph.fresh_name(stem)
        layer.input[index] = name
    set_initializer(model, name, array)


def _scale_conv(layer: onnx.NodeProto, weight: Float64, scale: Float64) -> Float64:
    return weight * scale.reshape(-1, *[1] * (weight.ndim - 1))


def _scale_conv_transpose(layer: onnx.NodeProto, weight: Float64, scale: Float64) -> Float64:
    # (C_in, C_out / groups, ...): output channels run over the groups first.
    groups: int = attribute(layer, "group", 1)
    split = weight.reshape(groups, -1, *weight.shape[1:])
    by_group = scale.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))
    return (split * by_group).reshape(weight.shape)


def _scale_gemm(layer: onnx.NodeProto, weight: Float64, scale: Float64) -> Float64:
    return weight * (scale[:, None] if attribute(layer, "transB", 0) else scale)


_SCALERS: dict[str, Any] = {
    "Conv": _scale_conv,
    "ConvTranspose": _scale_conv_transpose,
    "Gemm": _scale_gemm,
}
