"""Small networks as ONNX files, made node by node so that each test says what is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SHAPE = (3, 16, 16)


def float_net(path: Path, *, batch: int | str = "batch", opset: int = 18) -> Path:
    """Conv → Relu → GlobalAveragePool → Flatten → Gemm, float32, 10 outputs called ``logits``."""
    return _save(path, _nodes(None), _weights(), batch, opset)


def quantized_net(
    path: Path,
    *,
    activations: str = "int8",
    zero_point: int = 0,
    batch: int | str = "batch",
    opset: int = 18,
) -> Path:
    """The same with Q/DQ on every input of Conv and Gemm, weights per channel."""
    scales = {"in": np.float32(0.02), "pool": np.float32(0.01)}
    weights = {name: value for name, value in _weights().items() if "weight" not in name}
    weights |= {f"{name}_scale": scale for name, scale in scales.items()}
    weights["zero"] = np.dtype(activations).type(zero_point)
    for name in ("conv_weight", "gemm_weight"):
        value = _weights()[name]
        scale = (np.abs(value).reshape(len(value), -1).max(1) / 127).astype(np.float32)
        shaped = scale.reshape(-1, *[1] * (value.ndim - 1))
        weights[f"{name}_int8"] = np.round(value / shaped).astype(np.int8)
        weights[f"{name}_scale"] = scale
        weights[f"{name}_zero"] = np.zeros(len(value), np.int8)
    return _save(path, _nodes(weights), weights, batch, opset)


def images(count: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """``count`` images as float32 NCHW."""
    return np.random.default_rng(seed).normal(size=(count, *SHAPE)).astype(np.float32)


def _weights() -> dict[str, Any]:
    random = np.random.default_rng(7)
    return {
        "conv_weight": random.normal(size=(16, 3, 3, 3)).astype(np.float32),
        "conv_bias": random.normal(size=16).astype(np.float32),
        "gemm_weight": random.normal(size=(10, 16)).astype(np.float32),
        "gemm_bias": random.normal(size=10).astype(np.float32),
    }


def _nodes(quantized: dict[str, Any] | None) -> list[onnx.NodeProto]:
    def activation(name: str, scale: str) -> tuple[str, list[onnx.NodeProto]]:
        if quantized is None:
            return name, []
        return f"{name}_dq", [
            helper.make_node("QuantizeLinear", [name, scale, "zero"], [f"{name}_q"]),
            helper.make_node("DequantizeLinear", [f"{name}_q", scale, "zero"], [f"{name}_dq"]),
        ]

    def weight(name: str) -> tuple[str, list[onnx.NodeProto]]:
        if quantized is None:
            return name, []
        inputs = [f"{name}_int8", f"{name}_scale", f"{name}_zero"]
        return f"{name}_dq", [helper.make_node("DequantizeLinear", inputs, [f"{name}_dq"], axis=0)]

    image, image_nodes = activation("images", "in_scale")
    kernel, kernel_nodes = weight("conv_weight")
    flat, flat_nodes = activation("flat", "pool_scale")
    matrix, matrix_nodes = weight("gemm_weight")
    return [
        *image_nodes,
        *kernel_nodes,
        helper.make_node(
            "Conv", [image, kernel, "conv_bias"], ["conv_out"], name="conv", pads=[1, 1, 1, 1]
        ),
        helper.make_node("Relu", ["conv_out"], ["relu_out"], name="relu"),
        helper.make_node("GlobalAveragePool", ["relu_out"], ["pooled"], name="pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], name="flatten"),
        *flat_nodes,
        *matrix_nodes,
        helper.make_node("Gemm", [flat, matrix, "gemm_bias"], ["logits"], name="gemm", transB=1),
    ]


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    weights: dict[str, Any],
    batch: int | str,
    opset: int,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, *SHAPE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 10])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.save(model, path)
    return path
