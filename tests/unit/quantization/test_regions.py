from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest

from edgevision.quantization.regions import Link, UnitCost, divide


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


@pytest.mark.parametrize("seed", range(40))
def test_no_division_is_cheaper(seed):
    random = np.random.default_rng(seed)
    count = 7
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
    chosen, total = divide(costs, links)
    best = min(
        cost_of({unit for unit in range(count) if bits[unit]}, costs, links)
        for bits in product((False, True), repeat=count)
    )
    assert cost_of(chosen, costs, links) == total == best


def test_conversions_keep_a_lone_float_unit_on_integers():
    costs = {"a": UnitCost(9, 3), "b": UnitCost(4, 5), "c": UnitCost(9, 3)}
    order = [None, "a", "b", "c", None]
    chain = [Link(maker, (reader,), 1, 1) for maker, reader in pairwise(order)]
    assert divide(costs, chain) == ({"a", "b", "c"}, 13)
    costs["b"] = UnitCost(2, 5)
    assert divide(costs, chain) == ({"a", "c"}, 12)
    costs["b"] = UnitCost(2, None)
    assert divide(costs, chain)[0] == {"a", "c"}
