"""Which parts of a network to run on integers: an exact minimum cut over measured times.

Every unit of the graph takes one time in float and another on integers, and every tensor between a
float unit and an integer one is converted once. The cheapest division is a minimum s-t cut
(Greig, Porteous and Seheult 1989): the source's side runs on integers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
