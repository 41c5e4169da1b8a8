"""Lint of scales, zero points, integer types and axes."""

from __future__ import annotations

import numpy as np

from edgevision.export.graph import attribute
from edgevision.quantization.lint_rules.base import LAYERS, Finding, QdqGraph
from edgevision.quantization.rules.weighted import output_channel_axis
from edgevision.quantization.schemes import Scheme

_BAD_SCALE = "its scale is not finite and above zero; calibrate the tensor again"
_KNOWN = ("int8", "uint8", "int32")


def scale(graph: QdqGraph, scheme: Scheme) -> list[Finding]:
    """Scales are constant, finite and above zero; one for a whole activation."""
    found = []
    for node in [*graph.quantizers, *graph.dequantizers]:
        value = graph.scale(node)
        if value is None:
            found.append(Finding("scale", node.name, "its scale is not a constant"))
        elif value.dtype.name not in ("float32", scheme.remainder):
            found.append(Finding("scale", node.name, f"its scale is {value.dtype}, not float32"))
        elif not (np.isfinite(value).all() and (value > 0).all()):
            found.append(Finding("scale", node.name, _BAD_SCALE))
    for node in graph.activations():
        value = graph.scale(node)
        if value is not None and value.size > 1:
            message = f"an activation has {value.size} scales; give the whole tensor one"
            found.append(Finding("scale", node.name, message))
    return found


def integer_width(graph: QdqGraph, scheme: Scheme) -> list[Finding]:
    """Nothing but 8-bit integers, and 32-bit ones for biases."""
    found = []
    for node in [*graph.quantizers, *graph.dequantizers]:
        dtype = graph.integer_dtype(node)
        if dtype is not None and dtype.name not in _KNOWN:
            message = f"quantized to {dtype.name}; the target takes int8 or uint8"
            found.append(Finding("integer-width", node.name, message))
    return found


def activation_dtype(graph: QdqGraph, scheme: Scheme) -> list[Finding]:
    """Activations have the scheme's integer type."""
    found = []
    for node in graph.activations():
        dtype = graph.integer_dtype(node)
        if dtype is not None and dtype.name in _KNOWN and dtype.name != scheme.activation.dtype:
            message = f"activation quantized to {dtype}, scheme wants {scheme.activation.dtype}"
            if scheme.activation.dtype == "int8":
                message += "; TensorRT reads uint8 as int8 and clips the upper half silently"
            found.append(Finding("activation-dtype", node.name, message))
    return found


def activation_zero_point(graph: QdqGraph, scheme: Scheme) -> list[Finding]:
    """Symmetric schemes have zero point 0."""
    found = []
    for node in graph.activations():
        value = graph.zero_point(node)
        if scheme.activation.symmetric and value is not None and value.any():
            message = f"zero point {value.reshape(-1)[0]}; the target knows zero point 0 only"
            found.append(Finding("activation-zero-point", node.name, message))
    return found


def weight_dtype(graph: QdqGraph, scheme: Scheme) -> list[Finding]:
    """Weights are int8."""
    found = []
    for node in graph.weights:
        dtype = graph.integer_dtype(node)
        if dtype is not None and dtype != np.int8 and dtype.name in _KNOWN:
            found.append(Finding("weight-dtype", node.name, f"weights are {dtype}, not int8"))
    return found


def weight_zero_point(graph: QdqGraph, scheme: Scheme) -> list[Finding]:
    """Weights are symmetric."""
    return [
        Finding("weight-zero-point", node.name, "weights have a zero point; make them symmetric")
        for node in graph.weights
        if (value := graph.zero_point(node)) is not None and value.any()
    ]


def weight_range(graph: QdqGraph, scheme: Scheme) -> list[Finding]:
    """Weights stay inside the bits that the scheme uses."""
    found = []
    limit = scheme.weight.limit
    for node in graph.weights:
        integers = graph.integers(node)
        if integers is None or integers.dtype != np.int8:
            continue
        # -128 in a symmetric int8 tensor is harmless; beyond fewer bits products saturate.
        if scheme.weight.bits < 8 and np.abs(integers.astype(np.int16)).max(initial=0) > limit:
            bits = scheme.weight.bits
            message = f"weights beyond ±{limit}: pairs of products saturate; use {bits} bits"
            found.append(Finding("weight-range", node.name, message))
    return found


def weight_rounding(graph: QdqGraph, scheme: Scheme) -> list[Finding]:
    """Float weights that are rounded in the graph come back with the numbers they went in with."""
    found = []
    for node in graph.weights:
        rounder = graph.rounders.get(node.input[0])
        if rounder is None:
            continue
        there, back = graph.scale(rounder), graph.scale(node)
        same = there is not None and back is not None and np.array_equal(there, back)
        if there is not None and there.size > 1:
            same = same and attribute(rounder, "axis", 1) == attribute(node, "axis", 1)
        points = [
            value.any() for n in (rounder, node) if (value := graph.zero_point(n)) is not None
        ]
        if not same or graph.integer_dtype(rounder) != graph.integer_dtype(node) or any(points):
            message = (
                "its float weights are quantized with other numbers than these; give both nodes "
                "the same scale, axis and type, and zero point 0"
            )
            found.append(Finding("weight-rounding", node.name, message))
    return found


def weight_axis(graph: QdqGraph, scheme: Scheme) -> list[Finding]:
    """Scales of weights lie on the output channels of the layer that reads them."""
    found = []
    for node in graph.weights:
        value = graph.scale(node)
        if value is None or value.size == 1:
            continue
        rank = len(graph.graph.initializers[graph.stored(node)].dims)
        axis = attribute(node, "axis", 1) % max(rank, 1)
        for use in graph.readers(node):
            if use.node.op_type not in LAYERS:
                continue
            wanted = output_channel_axis(use.node, rank)
            if axis != wanted:
                message = (
                    f"scales of the weights lie on axis {axis}, {use.node.op_type} wants "
                    f"{'one scale' if wanted is None else f'axis {wanted}'}; "
                    "TensorRT then runs the layer in FP32 without a warning"
                )
                found.append(Finding("weight-axis", use.node.name, message))
    return found


def float_bias(graph: QdqGraph, scheme: Scheme) -> list[Finding]:
    """Biases stay in float."""
    return [
        Finding(
            "float-bias", node.name, "the target's parser refuses an integer bias; keep it float"
        )
        for node in graph.dequantizers
        if graph.integer_dtype(node) == np.int32 or node in graph.biases
    ]


def int32_bias(graph: QdqGraph, scheme: Scheme) -> list[Finding]:
    """Biases of quantized layers are int32 on the scale of input times weight."""
    found = []
    for node in graph.graph.nodes:
        if node.op_type not in ("Conv", "Gemm") or len(node.input) < 3 or not node.input[2]:
            continue
        parts = [graph.dequantizer(name) for name in node.input[:3]]
        if parts[0] is None or parts[1] is None:
            continue
        if parts[2] is None:
            message = "float bias in a quantized layer: it is not turned into an integer operator"
            found.append(Finding("int32-bias", node.name, message, "warning"))
            continue
        left, right, bias = (graph.scale(part) for part in parts if part is not None)
        if left is None or right is None or bias is None:
            continue
        product = np.broadcast_to(left * right, bias.shape)
        if graph.integer_dtype(parts[2]) != np.int32:
            found.append(Finding("int32-bias", node.name, "the quantized bias is not int32"))
        elif not np.allclose(product, bias, rtol=1e-5, atol=0):
            message = (
                "the bias is not on the scale of input times weight, which kernels take it for"
            )
            found.append(Finding("int32-bias", node.name, message))
    return found
