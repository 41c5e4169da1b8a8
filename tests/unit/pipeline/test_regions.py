"""Which division is taken, from measured times."""

from __future__ import annotations

import numpy as np
import pytest

from edgevision.benchmark import BenchConfig, compare
from edgevision.pipeline.stages.regions import _fastest


def comparison(**ms):
    """Real comparison of runs that each take their own, almost steady, time on a clock of ours."""
    now = [0]
    random = np.random.default_rng(0)

    def run(name):
        def call():
            now[0] += int(ms[name] * 1e6 * (1 + 0.01 * random.random()))

        return call

    return compare(
        {name: run(name) for name in ms},
        baseline="int8",
        config=BenchConfig(seconds=5, min_rounds=30),
        clock=lambda: now[0],
    )


@pytest.mark.parametrize(
    ("times", "chosen"),
    [
        ({"float": 3.0, "int8": 2.0, "division-0": 1.5, "division-1": 1.2}, "division-1"),
        ({"float": 3.0, "int8": 2.0, "division-0": 1.99}, None),  # may be luck
        ({"float": 3.0, "int8": 2.0, "division-0": 2.5}, None),
        ({"float": 1.0, "int8": 2.0, "division-0": 1.5}, None),  # float is faster still
    ],
)
def test_the_fastest_division_is_taken_where_it_is_worth_it(times, chosen):
    assert _fastest(comparison(**times)) == chosen
