"""Compares runs with one another: the numbers that a report shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevision.benchmark.clock import Clock, now_ns
from edgevision.benchmark.sampling import BenchConfig, Progress, Run, Samples, sample
from edgevision.benchmark.statistics import Ratio, percentile, ratio_of_medians
from edgevision.devices import environment
from edgevision.errors import UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

_SHOWN = 1000  # samples of a run that a report keeps: evenly spaced in time


@dataclass(frozen=True)
class RunStats:
    """Figures of one run; latencies in milliseconds, throughput in images per second."""

    samples: int
    latency_p50_ms: float
    latency_p90_ms: float
    latency_p99_ms: float
    latency_mean_ms: float
    latency_min_ms: float
    latency_max_ms: float
    throughput: float

    @classmethod
    def of(cls, ns: npt.NDArray[np.int64], images_per_call: int) -> RunStats:
        """Figures of ``ns``, (n,) durations in nanoseconds; throughput is from their mean."""
        ms = ns / 1e6
        return cls(
            samples=len(ns),
            latency_p50_ms=percentile(ms, 50),
            latency_p90_ms=percentile(ms, 90),
            latency_p99_ms=percentile(ms, 99),
            latency_mean_ms=float(ms.mean()),
            latency_min_ms=float(ms.min()),
            latency_max_ms=float(ms.max()),
            throughput=images_per_call * 1000 / float(ms.mean()),
        )


@dataclass(frozen=True)
class Comparison:
    """Result of ``compare``.

    Attributes:
        baseline: name of the run that the ratios are against.
        runs: run → its figures.
        ratios: every other run → baseline median / its median.
        samples: the durations behind them.
        config: how they were taken.
        environment: machine and versions, JSON values.
    """

    baseline: str
    runs: dict[str, RunStats]
    ratios: dict[str, Ratio]
    samples: Samples
    config: BenchConfig
    environment: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; of each run at most 1 000 durations, evenly spaced in time."""
        return {
            "baseline": self.baseline,
            "runs": {name: asdict(stats) for name, stats in self.runs.items()},
            "ratios": {name: asdict(ratio) for name, ratio in self.ratios.items()},
            "samples_ms": {name: _thinned(ns) for name, ns in self.samples.ns.items()},
            "protocol": {
                **asdict(self.config),
                "rounds": len(next(iter(self.samples.ns.values()))),
                "warmup_rounds": self.samples.warmup_rounds,
                "warmup_stable": self.samples.stable,
                "stopped": self.samples.stopped,
                "measured_seconds": round(self.samples.seconds, 3),
            },
            "environment": self.environment,
        }


def compare(
    runs: Mapping[str, Run],
    *,
    baseline: str,
    config: BenchConfig | None = None,
    progress: Progress | None = None,
    clock: Clock = now_ns,
) -> Comparison:
    """Measure ``runs`` interleaved in random order and relate them to ``baseline``.

    Args:
        runs: name → a call without arguments, which has to wait for its result.
        baseline: the name in ``runs`` that ratios are against.
        config: limits; default ten seconds or a 1 % interval.
        progress: called with (phase, share done).
        clock: nanoseconds; another one for tests.

    Raises:
        UsageError: ``baseline`` is not among ``runs``.
    """
    config = config or BenchConfig()
    if baseline not in runs:
        raise UsageError(f"Baseline '{baseline}' is none of the runs: {', '.join(runs)}.")
    before = environment()
    samples = sample(runs, config, clock=clock, progress=progress)
    after = {**before, "load_after": environment()["load"]}
    return related(samples, baseline=baseline, config=config, environment=after)


def related(
    samples: Samples, *, baseline: str, config: BenchConfig, environment: dict[str, Any]
) -> Comparison:
    """What ``compare`` makes of durations, wherever they were taken.

    Args:
        samples: of at least the run ``baseline``.
        config: they were taken with.
        environment: they were taken in.
    """
    # A clock may not tell two quick moments apart; no duration is really zero.
    ns = {name: np.maximum(values, 1) for name, values in samples.ns.items()}
    return Comparison(
        baseline=baseline,
        runs={name: RunStats.of(values, config.images_per_call) for name, values in ns.items()},
        ratios={
            name: ratio_of_medians(ns[baseline], values, seed=config.seed)
            for name, values in ns.items()
            if name != baseline
        },
        samples=samples,
        config=config,
        environment=environment,
    )


def _thinned(ns: npt.NDArray[np.int64]) -> list[float]:
    index = np.unique(np.linspace(0, len(ns) - 1, min(len(ns), _SHOWN)).astype(int))
    return [round(float(value) / 1e6, 6) for value in ns[index]]
