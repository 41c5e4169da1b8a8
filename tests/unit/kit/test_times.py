from __future__ import annotations

from typing import Any

import pytest

from edgevision.errors import InputError
from edgevision.kit.times import Metric, read_times


def query(start: float, compute: float, **more: Any) -> dict[str, Any]:
    return {"startComputeMs": start, "computeMs": compute, "latencyMs": compute + 1, **more}


def test_figures_are_trtexecs_own_and_without_its_warm_up() -> None:
    # 200 queries of 1 to 200 ms in disorder: the 99th percentile is the one at 200 - 1 - 2.
    measured = [query(1000 + n, 1 + (n * 77) % 200) for n in range(200)]
    times = read_times([query(0, 500.0), query(999.9, 500.0), *measured], 1000)
    assert times.queries == 200
    assert times.metrics == {
        "GPU compute time": Metric(100.5, 198),
        "latency (H2D + GPU compute + D2H)": Metric(101.5, 199),
    }


def test_what_only_some_versions_export_is_taken_where_it_is() -> None:
    times = read_times([query(5, 2.0, endToEndMs=7.5, startEnqMs=4, endEnqMs=4.25)], 0)
    assert times.metrics["end-to-end host latency"] == Metric(7.5, 7.5)
    assert times.metrics["enqueue time"] == Metric(0.25, 0.25)
    mixed = read_times([query(5, 2.0, endToEndMs=7.5), query(6, 2.0)], 0)
    assert "end-to-end host latency" not in mixed.metrics


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({}, "must be a list"),
        ([], "no query after the warm-up"),
        ([query(10, 1.0)], "no query after the warm-up of 1000 ms, of 1 in all"),
        ([[]], "has no 'startComputeMs'"),
        ([{"startComputeMs": 2000, "computeMs": 1}], "has no 'latencyMs'"),
        ([query(2000, float("nan"))], "'computeMs' of trtexec's times is no time"),
        ([query(2000, -1.0)], "is no time"),
        ([query(2000, 1.0, endToEndMs="7")], "'endToEndMs' of trtexec's times is no time: 7"),
        ([query(2000, True)], "is no time"),
        ([{**query(2000, 1.0), "startComputeMs": None}], "is no time"),
    ],
)
def test_another_form_is_refused(values: Any, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        read_times(values, 1000)
