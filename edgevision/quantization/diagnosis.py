"""What is known of every node of a quantized network before any target has seen it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx

from edgevision.export.graph import Graph, attribute
from edgevision.quantization.emit import NodePrecision
from edgevision.quantization.histogram import HALF
from edgevision.quantization.integer_forms import useful_range
from edgevision.quantization.numbers import activation_params
from edgevision.quantization.placement import place
from edgevision.quantization.schemes import Scheme
from edgevision.quantization.sensitivity import NetworkNoise
from edgevision.quantization.table import CalibrationTable, TensorRange

# Input channels of a dense convolution below which integer kernels run half empty.
FEW_CHANNELS = 8


@dataclass(frozen=True)
class NodeFacts:
    """One node of the float graph; see ``LayerRow`` of the report for the fields."""

    name: str
    operator: str
    asked: str
    reason: str = ""
    sqnr_db: float | None = None
    amax: float | None = None
    saturated: float | None = None
    trait: str = ""


def node_facts(
    model: onnx.ModelProto,
    table: CalibrationTable,
    scheme: Scheme,
    nodes: Iterable[NodePrecision],
    noise: NetworkNoise | None = None,
) -> list[NodeFacts]:
    """Facts about every node of the float ``model``, in its order.

    Args:
        model: the float model that ``table`` was made from.
        table: its ranges; a saturated share needs the histograms of its calibrator.
        scheme: that was emitted.
        nodes: what was asked for, from the ``EmitReport``.
        noise: of ``layer_noise``, where it was measured.
    """
    kept = {node.name: node.reason for node in nodes if node.asked == "float"}
    plan = place(model, scheme, kept)
    sources: dict[int, list[str]] = {}
    for tensor, slots in plan.activations.items():
        for position, _ in slots:
            sources.setdefault(position, []).append(tensor)
    sqnr = {layer.name: layer.sqnr_db for layer in noise.layers} if noise else {}
    graph = Graph(model)
    found = []
    for position, (node, asked) in enumerate(zip(graph.nodes, nodes, strict=True)):
        amax = saturated = None
        if asked.asked == "int8":
            limits = []
            for tensor in sorted(sources.get(position, [])):
                group = [table.tensors[name] for name in sorted(plan.scale_group(tensor))]
                low, high = _limits(group, scheme)
                step = float(activation_params(group, scheme).scale)
                # What lies half a step beyond is rounded, and where all readers are flat nothing is
                # lost: neither is clipped.
                flat_below, flat_above = useful_range(graph, tensor)
                share = saturated_share(
                    table.tensors[tensor],
                    -math.inf if low - step <= flat_below else low - step / 2,
                    math.inf if high + step >= flat_above else high + step / 2,
                )
                limits.append((max(-low, high), share))
            amax = max((limit for limit, _ in limits), default=None)
            shares = [share for _, share in limits if share is not None]
            saturated = max(shares, default=None)
        found.append(
            NodeFacts(
                name=asked.name,
                operator=asked.operator,
                asked=asked.asked,
                reason=asked.reason,
                sqnr_db=sqnr.get(asked.name),
                amax=amax,
                saturated=saturated,
                trait=_trait(node, graph),
            )
        )
    return found


def saturated_share(values: TensorRange, low: float, high: float) -> float | None:
    """Share of the values seen that lie outside ``low`` to ``high``, to a histogram bin.

    None where no histogram was kept and the range does not hold all of them.
    """
    if low <= values.minimum and values.maximum <= high:
        return 0.0
    if values.histogram is None:
        return None
    bins, width = values.histogram.bins, values.histogram.width
    above = int(np.clip(np.ceil(high / width), 0, HALF))
    below = int(np.clip(np.ceil(-low / width), 0, HALF))
    outside = bins[HALF + above :].sum() + bins[: HALF - below].sum()
    return float(outside) / values.count


def _limits(group: list[TensorRange], scheme: Scheme) -> tuple[float, float]:
    """Smallest and largest real value that the integers stand for."""
    params = activation_params(group, scheme)
    bottom, top = scheme.activation.limits
    zero, scale = int(params.zero_point), float(params.scale)
    return (bottom - zero) * scale, (top - zero) * scale


def _trait(node: onnx.NodeProto, graph: Graph) -> str:
    weight = graph.initializers.get(node.input[1]) if len(node.input) > 1 else None
    if node.op_type != "Conv" or weight is None:
        return ""
    groups, inside = attribute(node, "group", 1), weight.dims[1]
    if groups > 1 and inside == 1:
        return "depthwise"
    if groups > 1:
        return "grouped"
    return f"{inside} input channels" if inside < FEW_CHANNELS else ""
