"""Latency as trtexec measured and exported it.

Its figures are not ours: it runs random inputs one after another with the next one enqueued ahead,
and leaves out what an application does before and after. They are kept under its own names.
Definitions: NVIDIA's documentation of trtexec, "Benchmarking Network".
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

from edgevision.errors import InputError

# What trtexec calls its metrics, by the key of its export. ``endToEndMs`` ended with 8.5.
METRICS = {
    "computeMs": "GPU compute time",
    "latencyMs": "latency (H2D + GPU compute + D2H)",
    "endToEndMs": "end-to-end host latency",
    "enqMs": "enqueue time",
}
_LONGEST_MS = 1e12


@dataclass(frozen=True)
class Metric:
    """Milliseconds of a query: the median, and trtexec's own 99th percentile."""

    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Times:
    """What ``--exportTimes`` wrote, without the warm-up.

    Attributes:
        queries: measured, each of one batch.
        metrics: by the names of ``METRICS``.
    """

    queries: int
    metrics: dict[str, Metric]


def read_times(values: Any, warm_up_ms: float) -> Times:
    """Summarize trtexec's export.

    Args:
        values: the JSON value: a list with the times of each query in milliseconds.
        warm_up_ms: queries whose kernels began earlier are left out, as trtexec does; 8.x exports
            them too.

    Raises:
        InputError: it is of another form, or holds no query after the warm-up.
    """
    if not isinstance(values, list):
        raise InputError("trtexec's times must be a list of queries.")
    queries = [_query(entry) for entry in values]
    kept = [query for query in queries if query["startComputeMs"] >= warm_up_ms]
    if not kept:
        raise InputError(
            f"trtexec's times hold no query after the warm-up of {warm_up_ms:g} ms, of "
            f"{len(queries)} in all."
        )
    metrics = {
        name: _metric([query[key] for query in kept])
        for key, name in METRICS.items()
        if all(key in query for query in kept)
    }
    return Times(len(kept), metrics)


def _query(entry: Any) -> dict[str, float]:
    values = dict(entry) if isinstance(entry, dict) else {}
    if {"startEnqMs", "endEnqMs"} <= values.keys() and "enqMs" not in values:
        begin, end = values["startEnqMs"], values["endEnqMs"]
        if _is_number(begin) and _is_number(end):
            values["enqMs"] = end - begin
    for key in ("startComputeMs", "computeMs", "latencyMs"):
        if key not in values:
            raise InputError(f"A query of trtexec's times has no '{key}': {str(entry)[:100]}")
    for key in ("startComputeMs", *METRICS):
        if key in values and not (_is_number(values[key]) and values[key] >= 0):
            raise InputError(f"'{key}' of trtexec's times is no time: {str(values[key])[:50]}")
    return values


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _LONGEST_MS
    )


def _metric(values: list[float]) -> Metric:
    """The percentile is the one at index ``n - 1 - int(0.01 n)`` of the sorted times."""
    values = sorted(values)
    last = max(len(values) - 1 - int(0.01 * len(values)), 0)
    return Metric(round(median(values), 6), round(values[last], 6))
