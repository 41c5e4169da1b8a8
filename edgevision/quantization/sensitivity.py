"""What quantization costs each layer: the noise at its own output."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx

from edgevision.export.graph import Graph
from edgevision.export.loading import load_onnx
from edgevision.quantization.equivalence import QDQ
from edgevision.quantization.insertion import DEQUANTIZED, FLOAT, insert_qdq
from edgevision.quantization.placement import node_name, place
from edgevision.quantization.rules.base import Outcome, Plan
from edgevision.quantization.schemes import get_scheme
from edgevision.quantization.simulation import (
    Channels,
    Float32,
    Simulator,
    Statistics,
    decibels,
    network_sqnr,
    output_channels,
)
from edgevision.quantization.table import CalibrationTable

SHADOW = "_shadow"


@dataclass(frozen=True)
class LayerNoise:
    """One layer with its inputs and weights quantized, all before it in float.

    Attributes:
        name: of the node, as reports call it.
        operator: ONNX's.
        output: the tensor it computes.
        sqnr_db: signal over quantization noise at its output, before any fused activation.
        shift: (C,) mean change of each output channel; (0,) for a layer without weights.
        macs: multiply-accumulates for one image, 0 for a layer without any.
    """

    name: str
    operator: str
    output: str
    sqnr_db: float
    shift: Float32
    macs: int

    @property
    def channels(self) -> int:
        """How many output channels have a ``shift``."""
        return int(self.shift.size)


@dataclass(frozen=True)
class NetworkNoise:
    """``layers`` in the graph's order; ``sqnr_db`` at its outputs with all of them quantized."""

    layers: tuple[LayerNoise, ...]
    sqnr_db: float

    def worst_first(self) -> list[LayerNoise]:
        """The layers, the noisiest first."""
        return sorted(self.layers, key=lambda layer: layer.sqnr_db)


class _Probe(NamedTuple):
    node: onnx.NodeProto
    channels: Channels | None
    weight: tuple[int, ...]
    signal: str
    noise: str
    shift: str | None
    shapes: tuple[str, str]  # of the first input and the output


def layer_noise(
    float_path: Path,
    table: CalibrationTable,
    scheme: str,
    images: Float32,
    *,
    threads: int | None = None,
) -> NetworkNoise:
    """Measure all quantized layers of a model at once, in one pass over ``images``.

    Every quantized layer is computed twice from the same float inputs, as it is and with what
    enters it quantized; signal and noise are summed inside the graph, so memory stays that of one
    image. Layers are those that ``place`` says run on integers.

    Args:
        float_path: the float model that ``table`` was made from.
        table: its ranges, and corrections where it has any.
        scheme: name of a scheme.
        images: (N, C, H, W) float32, preprocessed as for the network.
        threads: of ONNX Runtime, None for its own choice.

    Raises:
        ModelError: the model cannot be run, or the table lacks a tensor.
        DataError: no images.
        UsageError: no such scheme.
    """
    chosen = get_scheme(scheme)
    model = load_onnx(float_path)
    plan = place(model, chosen)
    quantized = insert_qdq(model, plan, table, chosen)
    statistics = Statistics(shadow_graph(model, quantized, plan))
    graph = Graph(model)
    probes = [_probe(graph.nodes[i], graph, statistics) for i in quantized_layers(plan)]
    energies = [name for probe in probes for name in (probe.signal, probe.noise)]
    shifts = [probe.shift for probe in probes if probe.shift is not None]
    shapes = [name for probe in probes for name in probe.shapes]
    wanted = list(dict.fromkeys([*energies, *shifts, *shapes]))
    sums: dict[str, np.ndarray] = {}
    first = None
    for row in Simulator(statistics.model, wanted, threads=threads)(images):
        first = first or row
        for name in [*energies, *shifts]:
            sums[name] = sums.get(name, 0.0) + row[name].astype(np.float64)
    assert first is not None, "the simulator refuses to run on no images"
    layers = tuple(
        LayerNoise(
            name=node_name(probe.node),
            operator=probe.node.op_type,
            output=probe.node.output[0],
            sqnr_db=decibels(float(sums[probe.signal]), float(sums[probe.noise])),
            shift=_mean(sums, probe.shift, len(images)),
            macs=_macs(probe, *(tuple(first[name].tolist()) for name in probe.shapes)),
        )
        for probe in probes
    )
    return NetworkNoise(layers, network_sqnr(model, quantized, images, threads=threads))


def shadow_graph(model: onnx.ModelProto, quantized: onnx.ModelProto, plan: Plan) -> onnx.ModelProto:
    """The float ``model`` and, beside each quantized layer, the same layer behind its Q/DQ pairs.

    The second one's output is called as the first one's with ``SHADOW`` behind it.
    """
    # Quantized graph outputs kept their names in ``quantized``; here the float ones keep them.
    renamed = {name: f"{name}{DEQUANTIZED}" for name in plan.outputs}
    renamed |= {f"{name}{FLOAT}": name for name in plan.outputs}
    shadow = onnx.ModelProto()
    shadow.CopyFrom(model)
    known = {tensor.name for tensor in model.graph.initializer}
    extra = [tensor for tensor in quantized.graph.initializer if tensor.name not in known]
    shadow.graph.initializer.extend(extra)
    del shadow.graph.node[:]
    originals = enumerate(model.graph.node)
    layers = set(quantized_layers(plan))
    for node in quantized.graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for slot, name in enumerate(node.input):
            copy.input[slot] = renamed.get(name, name)
        if node.op_type in QDQ:
            for slot, name in enumerate(node.output):
                copy.output[slot] = renamed.get(name, name)
            shadow.graph.node.append(copy)
            continue
        position, original = next(originals)
        shadow.graph.node.append(original)
        if position in layers:
            copy.name = f"{node_name(original)}{SHADOW}"
            for slot, name in enumerate(original.output):
                copy.output[slot] = f"{name}{SHADOW}" if name else ""
            shadow.graph.node.append(copy)
    return shadow


def quantized_layers(plan: Plan) -> list[int]:
    """Positions of the nodes that ``place`` says run on integers, in the graph's order."""
    return [i for i, outcome in sorted(plan.outcomes.items()) if outcome is Outcome.INT8]


def _probe(node: onnx.NodeProto, graph: Graph, statistics: Statistics) -> _Probe:
    output = node.output[0]
    channels = output_channels(node, graph)
    difference = statistics.difference(f"{output}{SHADOW}", output)
    weight = graph.initializers[node.input[1]].dims if channels is not None else ()
    return _Probe(
        node=node,
        channels=channels,
        weight=tuple(weight),
        signal=statistics.energy(output),
        noise=statistics.energy(difference),
        shift=None if channels is None else statistics.mean(difference, channels),
        shapes=(statistics.shape(node.input[0]), statistics.shape(output)),
    )


def _mean(sums: dict[str, np.ndarray], name: str | None, count: int) -> Float32:
    if name is None:
        return np.zeros(0, np.float32)
    return (sums[name] / count).astype(np.float32)


def _macs(probe: _Probe, source: tuple[int, ...], output: tuple[int, ...]) -> int:
    """Of one image, padding counted."""
    if probe.node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0
    if probe.channels is None:  # a product of two activations
        return int(np.prod(output, dtype=np.int64)) * source[-1]
    size = int(np.prod(probe.weight, dtype=np.int64))
    if probe.node.op_type == "ConvTranspose":
        return int(np.prod(source, dtype=np.int64)) * size // probe.weight[0]
    return int(np.prod(output, dtype=np.int64)) * size // probe.channels.number
