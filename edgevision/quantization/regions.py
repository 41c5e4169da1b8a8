"""Which parts of a network to run on integers: an exact minimum cut over measured times.

Every unit of the graph takes one time in float and another on integers, and every tensor between a
float unit and an integer one is converted once. The cheapest division is a minimum s-t cut
(Greig, Porteous and Seheult 1989): the source's side runs on integers. It may have many borders,
each of which costs more in a whole graph than its conversions alone (layouts change, fusions end),
so divisions with a single border are listed as well: the first layers of a network of images have
many pixels and few channels, and are often faster in float.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import networkx as nx

T = TypeVar("T")


@dataclass(frozen=True)
class UnitCost:
    """Cost of one unit either way; ``integer`` is None where it has no integer form."""

    floating: float
    integer: float | None


@dataclass(frozen=True)
class Link(Generic[T]):
    """A tensor between units.

    Attributes:
        producer: who makes it; None for an input of the network, which is float.
        consumers: who reads it; None among them for an output of the network, which is float.
        quantize: cost of converting it to integers once, whoever reads them.
        dequantize: of the way back.
    """

    producer: T | None
    consumers: tuple[T | None, ...]
    quantize: float
    dequantize: float


def total_cost(
    on_integers: Collection[T], costs: Mapping[T, UnitCost], links: Sequence[Link[T]]
) -> float:
    """What a division costs; every unit of ``on_integers`` has an integer form."""
    total = 0.0
    for unit, cost in costs.items():
        quick = cost.integer if unit in on_integers else None
        total += cost.floating if quick is None else quick
    for link in links:
        readers = [consumer in on_integers for consumer in link.consumers]
        if link.producer in on_integers:
            total += 0.0 if all(readers) else link.dequantize
        elif any(readers):
            total += link.quantize
    return total


def float_beginnings(
    costs: Mapping[T, UnitCost], links: Sequence[Link[T]], count: int
) -> list[tuple[frozenset[T], float]]:
    """The ``count`` cheapest divisions into a float beginning and the rest on integers.

    Returns:
        Units on integers and cost of each, the cheapest first; ``costs`` is in the order of the
        graph.
    """
    found = []
    for begin in range(1, len(costs)):
        rest = frozenset(u for u in list(costs)[begin:] if costs[u].integer is not None)
        found.append((rest, total_cost(rest, costs, links)))
    return sorted(found, key=lambda division: division[1])[:count]


def divide(costs: Mapping[T, UnitCost], links: Sequence[Link[T]]) -> tuple[frozenset[T], float]:
    """The units that run on integers in the cheapest division, and what it costs.

    Costs are in any one unit, at least 0. Between equal divisions, the one with more in float.
    """
    network = nx.DiGraph()
    integer, floating = ("side", "integer"), ("side", "float")
    network.add_node(integer)
    network.add_node(floating)
    for unit, cost in costs.items():
        network.add_edge(integer, ("unit", unit), capacity=cost.floating)
        if cost.integer is None:
            network.add_edge(("unit", unit), floating)  # no capacity: never cut
        else:
            network.add_edge(("unit", unit), floating, capacity=cost.integer)

    def place(unit: T | None) -> tuple[str, object]:
        return floating if unit is None else ("unit", unit)

    for index, link in enumerate(links):
        wanted, given = ("wanted", index), ("given", index)
        # One reader on integers is enough to pay for quantizing, one in float for the way back.
        for consumer in link.consumers:
            if consumer is not None:
                network.add_edge(place(consumer), wanted)
            network.add_edge(given, place(consumer))
        if link.consumers:
            network.add_edge(wanted, place(link.producer), capacity=link.quantize)
            if link.producer is not None:
                network.add_edge(place(link.producer), given, capacity=link.dequantize)
    total, (on_integers, _) = nx.minimum_cut(network, integer, floating)
    return frozenset(unit for unit in costs if ("unit", unit) in on_integers), float(total)
