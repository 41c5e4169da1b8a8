"""Where INT8 pays: divisions of a network into integer and float parts, by measured kernel times.

The float graph and the all-INT8 graph are both timed kernel by kernel. Nodes that either of them
runs as one kernel form a unit; a minimum cut then weighs each unit's two times and the conversions
between. What a conversion really costs depends on layouts that only a whole graph settles, so
several prices give several divisions, those with a float beginning join them, and whoever asks
measures those whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx

from edgevision.export.graph import Graph
from edgevision.export.loading import load_onnx
from edgevision.quantization.placement import NOTHING, infer_shapes, node_name, place
from edgevision.quantization.regions import Link, UnitCost, divide, float_beginnings
from edgevision.quantization.rules.base import Refusal
from edgevision.quantization.schemes import get_scheme
from edgevision.quantization.timing import QDQ, Kernel, Timer, conversion_time

PRICES = (1.0, 2.0, 4.0, 8.0)  # of a conversion, in units of a bare Q or DQ
BEGINNINGS = 3  # how many of the divisions with a float beginning


@dataclass(frozen=True)
class Division:
    """One way to divide a network.

    Attributes:
        keep_float: nodes to leave in float though a rule would quantize them, each with why.
        integer: names of the nodes on integers.
        predicted_ms: from kernel times, as a guide.
    """

    keep_float: Mapping[str, str]
    integer: frozenset[str]
    predicted_ms: float


def divisions(
    float_path: Path,
    int8_path: Path,
    scheme: str,
    feeds: Mapping[str, npt.NDArray[Any]],
    timer: Timer,
    *,
    keep_float: Mapping[str, str] = NOTHING,
    prices: Sequence[float] = PRICES,
) -> list[Division]:
    """Ways to divide the float model that are worth measuring, all different.

    Args:
        float_path: the float model.
        int8_path: what ``emit`` made of it in the manner of ``scheme``, all else quantized.
        feeds: one array for each input; its shapes are those that times are for.
        timer: of the backend that the network is for (``kernel_timer``).
        keep_float: nodes that stay in float whatever they take, by name, each with why.
        prices: of a conversion, in units of a bare Q or DQ.

    Raises:
        ModelError: the backend cannot run one of the models.
    """
    model = load_onnx(float_path)
    graph = Graph(model)
    timed = _Timed(
        graph,
        timer(float_path, feeds),
        timer(int8_path, feeds),
    )
    costs = timed.costs()
    for name in keep_float:
        if name in timed.unit:
            costs[timed.unit[name]] = replace(costs[timed.unit[name]], integer=None)
    once, each = conversion_time(timer)
    sizes = _sizes(model, feeds)
    quantizable = _quantized(model, scheme)

    def links(price: float) -> list[Link[str]]:
        return timed.links({name: price * (once + each * n) for name, n in sizes.items()})

    drafts = [divide(costs, links(price)) for price in prices]
    drafts += float_beginnings(costs, links(min(prices)), BEGINNINGS)
    found: dict[frozenset[str], Division] = {}
    for chosen, total in drafts:
        integer = frozenset(name for unit in chosen for name in timed.members[unit])
        kept = {
            name: keep_float.get(name) or timed.reason(timed.unit[name])
            for name in sorted(quantizable - integer)
            if name in timed.unit
        }
        if integer & quantizable and kept.keys() - keep_float.keys():
            found.setdefault(frozenset(kept), Division(kept, integer, total / 1000))
    # An activation alone is quantized only behind a layer that is.
    return [each for each in found.values() if _quantized(model, scheme, each.keep_float)]


class _Timed:
    """Units of the float graph with their times in both precisions."""

    def __init__(self, graph: Graph, floats: list[Kernel], integers: list[Kernel]) -> None:
        self.graph = graph
        self.floats = floats
        self.integers = integers
        names = [node_name(node) for node in graph.nodes]
        self.unit = {name: name for name in names}
        for kernel in [*floats, *integers]:
            if kernel.operator not in QDQ:
                self._join([name for name in sorted(kernel.nodes) if name in self.unit])
        self.unit = {name: self._root(name) for name in names}
        self.members: dict[str, list[str]] = {}
        for name, unit in self.unit.items():
            self.members.setdefault(unit, []).append(name)
        self._of_tensor = {
            name: self.unit[node_name(node)] for name, node in graph.producers.items()
        }
        self.float_time = self._sum(floats)
        self.integer_time = self._sum(integers)
        self.capable = {
            self.unit[name]
            for kernel in integers
            if kernel.integer and kernel.operator not in QDQ
            for name in kernel.nodes
            if name in self.unit
        }
        self._add_inner_pairs()

    def costs(self) -> dict[str, UnitCost]:
        """Microseconds of each unit; one that no kernel runs, folded away, is free either way."""
        costs = {}
        for unit in self.members:
            idle = unit not in self.integer_time and unit not in self.float_time
            integer = self.integer_time.get(unit, 0.0) if unit in self.capable or idle else None
            costs[unit] = UnitCost(self.float_time.get(unit, 0.0), integer)
        return costs

    def links(self, conversions: Mapping[str, float]) -> list[Link[str]]:
        """Every float tensor between units, with the price of converting it."""
        links = []
        for name, price in conversions.items():
            if name in self.graph.initializers:
                continue  # converted once, while the model is loaded
            producer = self._of_tensor.get(name)
            readers = {self.unit[node_name(use.node)] for use in self.graph.uses.get(name, [])}
            consumers: list[str | None] = [*sorted(readers - {producer or ""})]
            if name in self.graph.outputs:
                consumers.append(None)
            if consumers:
                links.append(Link(producer, tuple(consumers), price, price))
        return links

    def reason(self, unit: str) -> str:
        """Why a unit stays in float."""
        floating, integer = self.float_time.get(unit, 0.0), self.integer_time.get(unit, 0.0)
        if unit not in self.capable:
            return "no integer kernel for it here"
        if integer >= floating:
            return f"slower in INT8 here: {integer:.0f} against {floating:.0f} us"
        return "converting to INT8 and back would cost more than INT8 gains here"

    def _sum(self, kernels: Iterable[Kernel]) -> dict[str, float]:
        times: dict[str, float] = {}
        for kernel in kernels:
            if kernel.operator in QDQ:
                continue
            units = {self.unit[name] for name in kernel.nodes if name in self.unit}
            for unit in units:  # at most one: a kernel's nodes are one unit
                times[unit] = times.get(unit, 0.0) + kernel.microseconds
        return times

    def _add_inner_pairs(self) -> None:
        """Count Q and DQ kernels that stay inside or behind a unit when all is on integers.

        One whose maker computes in float, as ONNX Runtime has no integer kernel for the last of
        its nodes, quantizes for its readers; one with a float node first takes its input back.
        """
        for kernel in self.integers:
            if kernel.operator not in QDQ:
                continue
            for name in sorted(kernel.nodes):
                tensor = name.removesuffix(f"_{kernel.operator}")
                if tensor == name:
                    continue
                if kernel.operator == "QuantizeLinear":
                    owner = self._of_tensor.get(tensor)
                else:
                    uses = self.graph.uses.get(tensor, [])
                    owner = min((self.unit[node_name(use.node)] for use in uses), default=None)
                if owner is not None and owner in self.capable:
                    before = self.integer_time.get(owner, 0.0)
                    self.integer_time[owner] = before + kernel.microseconds
                break

    def _root(self, name: str) -> str:
        while self.unit[name] != name:
            name = self.unit[name]
        return name

    def _join(self, names: list[str]) -> None:
        for other in names[1:]:
            self.unit[self._root(other)] = self._root(names[0])


def _quantized(
    model: onnx.ModelProto, scheme: str, keep_float: Mapping[str, str] = NOTHING
) -> set[str]:
    """Names of the nodes that ``scheme`` quantizes."""
    outcomes = place(model, get_scheme(scheme), keep_float).outcomes
    nodes = enumerate(model.graph.node)
    return {node_name(node) for i, node in nodes if not isinstance(outcomes[i], Refusal)}


def _sizes(model: onnx.ModelProto, feeds: Mapping[str, npt.NDArray[Any]]) -> dict[str, int]:
    """Elements of every float tensor whose shape can be told, free axes at those of ``feeds``."""
    free: dict[str, int] = {}
    for value in model.graph.input:
        if value.name in feeds:
            dims = value.type.tensor_type.shape.dim
            for dim, length in zip(dims, feeds[value.name].shape, strict=True):
                free[dim.dim_param] = length
    sizes = {}
    for value in infer_shapes(model):
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            dims = value.type.tensor_type.shape.dim
            lengths = [d.dim_value or free.get(d.dim_param, 1) for d in dims]
            sizes[value.name] = prod(lengths)
    return sizes
