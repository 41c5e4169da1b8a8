"""Honest measurement: interleaved runs, percentiles, ratios with their uncertainty."""

from __future__ import annotations

from edgevision.benchmark.compare import Comparison, RunStats, compare, related
from edgevision.benchmark.graphs import opened_graphs
from edgevision.benchmark.sampling import BenchConfig, Samples, sample
from edgevision.benchmark.statistics import Ratio, ratio_of_medians

__all__ = [
    "BenchConfig",
    "Comparison",
    "Ratio",
    "RunStats",
    "Samples",
    "compare",
    "opened_graphs",
    "ratio_of_medians",
    "related",
    "sample",
]
