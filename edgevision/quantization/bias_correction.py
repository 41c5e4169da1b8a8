"""Bias correction: quantization moves the mean of each channel, and the bias can take that back.

M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV
2019, section 4.2. Either way gives what to add to the biases, for the calibration table; layers
without a bias are left out, there is nothing to add to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from edgevision.errors import UsageError, unknown_name
from edgevision.export.graph import Graph, attribute
from edgevision.export.loading import load_onnx
from edgevision.quantization.insertion import FLOAT, insert_qdq
from edgevision.quantization.placement import place
from edgevision.quantization.rules.base import Plan
from edgevision.quantization.rules.weighted import output_channel_axis
from edgevision.quantization.schemes import Scheme, get_scheme
from edgevision.quantization.simulation import (
    Float32,
    Float64,
    Simulator,
    Statistics,
    average,
    input_channels,
    output_channels,
)
from edgevision.quantization.table import CalibrationTable

Corrections = dict[str, Float32]


def correct_biases(
    float_path: Path,
    table: CalibrationTable,
    scheme: str,
    images: Float32,
    *,
    method: str = "empirical",
    threads: int | None = None,
) -> CalibrationTable:
    """``table`` with bias corrections for ``scheme``; those it had for it are not kept.

    Args:
        float_path: the float model that ``table`` was made from.
        table: its ranges.
        scheme: name of a scheme.
        images: (N, C, H, W) float32, preprocessed as for the network.
        method: ``"empirical"``: mean change of each layer's output within the quantized network,
            one pass for each depth, so that the layers in front are corrected already. What
            quantizing a layer alone would change is no substitute: it leaves most of the shift.
            ``"analytic"``: the change of the weights times the mean of the inputs; one pass.
        threads: of ONNX Runtime, None for its own choice.

    Raises:
        ModelError: the model cannot be run, or the table lacks a tensor.
        DataError: no images.
        UsageError: no such scheme or method.
    """
    if method not in METHODS:
        raise UsageError(unknown_name("bias correction", method, sorted(METHODS)))
    others = {name: value for name, value in table.corrections.items() if name != scheme}
    plain = replace(table, corrections=others)
    found = METHODS[method](float_path, plain, get_scheme(scheme), images, threads)
    return replace(table, corrections={**others, scheme: found})


def _analytic(
    path: Path, table: CalibrationTable, scheme: Scheme, images: Float32, threads: int | None
) -> Corrections:
    """``-(W_quantized - W) E[x]``, with the mean of each input channel over images and pixels.

    Padding is taken for more of the same image, and activations for exact.
    """
    model = load_onnx(path)
    graph, plan = Graph(model), place(model, scheme)
    statistics = Statistics(model)
    means: dict[str, str] = {}
    layers = []
    for node in correctable(graph, plan):
        channels = input_channels(node, graph)
        if channels is not None:
            layers.append(node)
            means[node.output[0]] = statistics.mean(node.input[0], channels)
    simulator = Simulator(statistics.model, sorted(set(means.values())), threads=threads)
    found = average(simulator(images))
    quantized = Graph(insert_qdq(model, plan, table, scheme))
    corrections = {}
    for node in layers:
        name = node.output[0]
        exact, rounded = graph.constant(node.input[1]), _restored(node, quantized)
        assert exact is not None, "correctable() gives layers with constant weights"
        change = rounded - exact.astype(np.float64)
        corrections[name] = (-_response(node, change, found[means[name]])).astype(np.float32)
    return corrections


def _empirical(
    path: Path, table: CalibrationTable, scheme: Scheme, images: Float32, threads: int | None
) -> Corrections:
    model = load_onnx(path)
    graph, plan = Graph(model), place(model, scheme)
    layers = correctable(graph, plan)
    exact = _output_means(model, graph, layers, images, threads)
    found: Corrections = {}
    for level in levels(graph, layers):
        so_far = replace(table, corrections={scheme.name: found})
        quantized = insert_qdq(model, plan, so_far, scheme)
        for name, mean in _output_means(quantized, graph, level, images, threads).items():
            found[name] = (exact[name] - mean).astype(np.float32)
    return found


METHODS: Mapping[
    str,
    Callable[[Path, CalibrationTable, Scheme, Float32, int | None], Corrections],
] = {"analytic": _analytic, "empirical": _empirical}


def correctable(graph: Graph, plan: Plan) -> list[onnx.NodeProto]:
    """Quantized layers with a constant bias for each output channel, in the graph's order."""
    found = []
    for position in sorted({position for position, _ in plan.weights}):
        node = graph.nodes[position]
        channels = output_channels(node, graph)
        bias = graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if channels is not None and bias is not None and bias.shape == (channels.number,):
            found.append(node)
    return found


def levels(graph: Graph, layers: list[onnx.NodeProto]) -> list[list[onnx.NodeProto]]:
    """``layers`` by how many of them lie in front: those of one level do not feed each other."""
    chosen = {node.output[0] for node in layers}
    depths: dict[str, int] = {}
    for node in graph.nodes:
        deepest = max((depths.get(name, 0) for name in node.input), default=0)
        for name in node.output:
            depths[name] = deepest + (name in chosen)
    found: dict[int, list[onnx.NodeProto]] = {}
    for node in layers:
        found.setdefault(depths[node.output[0]], []).append(node)
    return [found[depth] for depth in sorted(found)]


def _output_means(
    model: onnx.ModelProto,
    graph: Graph,
    layers: list[onnx.NodeProto],
    images: Float32,
    threads: int | None,
) -> dict[str, Float64]:
    """Mean of each output channel of ``layers`` in ``model``, float or quantized."""
    statistics = Statistics(model)
    made = {name for node in model.graph.node for name in node.output}
    means = {}
    for node in layers:
        channels = output_channels(node, graph)
        assert channels is not None, "correctable() gives layers with channels"
        name = node.output[0]
        # A quantized graph output carries its name behind the Q/DQ pair.
        inner = f"{name}{FLOAT}" if f"{name}{FLOAT}" in made else name
        means[name] = statistics.mean(inner, channels)
    found = average(Simulator(statistics.model, list(means.values()), threads=threads)(images))
    return {name: found[mean] for name, mean in means.items()}


def _restored(node: onnx.NodeProto, quantized: Graph) -> Float64:
    """The weights of ``node`` as the quantized graph computes them from its integers."""
    layer = next(n for n in quantized.nodes if n.name == node.name and n.op_type == node.op_type)
    restore = quantized.producers[layer.input[1]]
    integers, scale = quantized.constant(restore.input[0]), quantized.constant(restore.input[1])
    assert integers is not None, "weights are stored as integers"
    assert scale is not None, "scales are constants"
    shape = [1] * integers.ndim
    if scale.ndim:
        shape[attribute(restore, "axis", 1)] = -1
    restored: Float64 = integers.astype(np.float64) * scale.astype(np.float64).reshape(shape)
    return restored


def _response(node: onnx.NodeProto, weight: Float64, mean: Float64) -> Float64:
    """Output of the layer for an input that is ``mean`` everywhere, without its bias; (C,)."""
    if node.op_type in ("Gemm", "MatMul"):
        axis = output_channel_axis(node, weight.ndim)
        alpha = float(attribute(node, "alpha", 1.0))
        return np.asarray((weight if axis == 0 else weight.T) @ mean * alpha)
    groups = attribute(node, "group", 1)
    by_group = mean.reshape(groups, -1)
    taps = weight.sum(axis=tuple(range(2, weight.ndim)))
    if node.op_type == "ConvTranspose":
        # Of the taps, one in so many meets an output pixel.
        taps = taps / np.prod(attribute(node, "strides", [1]), dtype=np.float64)
        taps = taps.reshape(groups, by_group.shape[1], -1).transpose(0, 2, 1)
    grouped = taps.reshape(groups, -1, by_group.shape[1])
    return np.asarray(np.einsum("goi,gi->go", grouped, by_group).reshape(-1))
