from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest

from edgevision.quantization.regions import (
    Link,
    UnitCost,
    divide,
    float_beginnings,
    total_cost,
)


def cost_of(on_integers, costs, links):
    total = 0.0
    for unit, cost in costs.items():
        if unit in on_integers:
            if cost.integer is None:
                return np.inf
            total += cost.integer
        else:
            total += cost.floating
    for link in links:
        made = link.producer in on_integers
        readers = [consumer in on_integers for consumer in link.consumers]
        if not made and any(readers):
            total += link.quantize
        if made and not all(readers):
            total += link.dequantize
    return total


def random_problem(seed, count=7):
    random = np.random.default_rng(seed)
    costs = {
        unit: UnitCost(
            float(random.integers(0, 20)),
            None if random.random() < 0.2 else float(random.integers(0, 20)),
        )
        for unit in range(count)
    }
    links = []
    for producer in [None, *range(count)]:
        later = range(0 if producer is None else producer + 1, count)
        consumers = tuple(unit for unit in later if random.random() < 0.4)
        if producer is not None and random.random() < 0.2:
            consumers += (None,)
        there, back = random.integers(0, 9, 2)
        links.append(Link(producer, consumers, float(there), float(back)))
    return costs, links


@pytest.mark.parametrize("seed", range(40))
def test_no_division_is_cheaper(seed):
    costs, links = random_problem(seed)
    chosen, total = divide(costs, links)
    best = min(
        cost_of({unit for unit in costs if bits[unit]}, costs, links)
        for bits in product((False, True), repeat=len(costs))
    )
    assert cost_of(chosen, costs, links) == total_cost(chosen, costs, links) == total == best


@pytest.mark.parametrize("seed", range(20))
def test_float_beginnings_are_the_cheapest_with_one_border(seed):
    costs, links = random_problem(seed)
    found = float_beginnings(costs, links, 3)
    every = [
        frozenset(u for u in range(begin, len(costs)) if costs[u].integer is not None)
        for begin in range(1, len(costs))
    ]
    prices = [cost_of(each, costs, links) for each in every]
    assert [total for _, total in found] == sorted(prices)[:3]
    assert all(chosen in every and cost_of(chosen, costs, links) == t for chosen, t in found)


def test_conversions_keep_a_lone_float_unit_on_integers():
    costs = {"a": UnitCost(9, 3), "b": UnitCost(4, 5), "c": UnitCost(9, 3)}
    order = [None, "a", "b", "c", None]
    chain = [Link(maker, (reader,), 1, 1) for maker, reader in pairwise(order)]
    assert divide(costs, chain) == ({"a", "b", "c"}, 13)
    costs["b"] = UnitCost(2, 5)
    assert divide(costs, chain) == ({"a", "c"}, 12)
    costs["b"] = UnitCost(2, None)
    assert divide(costs, chain)[0] == {"a", "c"}
