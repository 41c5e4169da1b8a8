"""What quantization of each layer costs at the network's outputs, found by one backward pass."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from edgevision.errors import DataError, ModelError
from edgevision.export.graph import Graph
from edgevision.export.loading import load_onnx
from edgevision.quantization.insertion import insert_qdq
from edgevision.quantization.placement import node_name, place
from edgevision.quantization.schemes import get_scheme
from edgevision.quantization.sensitivity import (
    SHADOW,
    layer_noise,
    quantized_layers,
    shadow_graph,
)
from edgevision.quantization.simulation import Float32, Simulator, Statistics
from edgevision.quantization.table import CalibrationTable
from edgevision.quantization.torch_graph import float_graph_of

PROJECTIONS = 4  # random directions at the outputs, for each image


class OutputNoise(NamedTuple):
    """What the layer ``name`` adds at the outputs: noise energy over the signal's, to first order.

    As if it alone were quantized: its weights and all that enters it.
    """

    name: str
    noise: float


def output_noise(
    float_path: Path,
    table: CalibrationTable,
    scheme: str,
    images: Float32,
    *,
    threads: int | None = None,
) -> list[OutputNoise]:
    """Noise energy that each quantized layer makes at the network's outputs, in the graph's order.

    With J the outputs' derivative by a layer's output and e the error that quantizing the layer
    leaves there, the outputs move by J e. For v of independent standard normals the mean of
    ((v J) . e)^2 is |J e|^2 (Hutchinson's estimator), so a few products v J, each one backward
    pass for all layers together, give every layer's share.

    Args:
        float_path: the float model that ``table`` was made from.
        table: its ranges.
        scheme: name of a scheme.
        images: (N, C, H, W) float32, preprocessed as for the network.
        threads: of ONNX Runtime, None for its own choice.

    Raises:
        ModelError: the model cannot be run, has an operator that there is no derivative of, or
            the table lacks a tensor.
        DataError: no images.
        UsageError: no such scheme.
    """
    if not len(images):
        raise DataError("No images were given.")
    chosen = get_scheme(scheme)
    model = load_onnx(float_path)
    plan = place(model, chosen)
    graph = Graph(model)
    layers = [graph.nodes[position] for position in quantized_layers(plan)]
    outputs = [value.name for value in model.graph.output]
    made = [node.output[0] for node in layers]
    quantized = insert_qdq(model, plan, table, chosen)
    statistics = Statistics(shadow_graph(model, quantized, plan))
    errors = [statistics.difference(f"{name}{SHADOW}", name) for name in made]
    simulator = Simulator(statistics.model, errors, threads=threads)
    module = float_graph_of(model)
    keep = tuple(dict.fromkeys([*made, *outputs]))
    generator = torch.Generator().manual_seed(0)
    signal, noise = 0.0, np.zeros(len(layers))
    for image, row in zip(images, simulator(images), strict=True):
        values = module(torch.from_numpy(image[None]).requires_grad_(True), keep=keep)
        reached = [values[name] for name in outputs]
        signal += sum(float(value.detach().double().square().sum()) for value in reached)
        for _ in range(PROJECTIONS):
            directions = [torch.randn(value.shape, generator=generator) for value in reached]
            total = torch.stack(
                [(v * value).sum() for v, value in zip(directions, reached, strict=True)]
            ).sum()
            gradients = torch.autograd.grad(
                total, [values[name] for name in made], retain_graph=True, allow_unused=True
            )
            for index, (error, gradient) in enumerate(zip(errors, gradients, strict=True)):
                if gradient is not None:
                    moved = np.vdot(gradient.numpy().astype(np.float64), row[error])
                    noise[index] += float(moved) ** 2 / PROJECTIONS
    return [
        OutputNoise(node_name(node), float(energy) / max(signal, 1e-300))
        for node, energy in zip(layers, noise, strict=True)
    ]


def most_costly_first(
    float_path: Path, table: CalibrationTable, scheme: str, images: Float32
) -> list[tuple[str, str]]:
    """Names of all quantized layers, each with what it costs, in the order to leave in float.

    By the noise they make at the network's outputs; where there is no derivative of the network,
    by the noise at their own. Arguments and errors as for ``layer_noise``.
    """
    try:
        found = output_noise(float_path, table, scheme, images)
    except ModelError:
        layers = layer_noise(float_path, table, scheme, images).worst_first()
        return [(layer.name, f"{layer.sqnr_db:.1f} dB SQNR") for layer in layers]
    whole = sum(layer.noise for layer in found) or 1.0
    found.sort(key=lambda layer: -layer.noise)
    return [(name, f"{noise / whole:.1%} of the noise at the output") for name, noise in found]
