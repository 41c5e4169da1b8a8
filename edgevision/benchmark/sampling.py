"""Takes the samples: warm-up until stable, then every run once a round, in random order."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgevision.benchmark.clock import Clock, now_ns
from edgevision.benchmark.statistics import ratio_of_medians
from edgevision.errors import UsageError

if TYPE_CHECKING:
    from typing import TypeAlias  # novermin

    import numpy.typing as npt

Run: TypeAlias = "Callable[[], object]"
Progress: TypeAlias = "Callable[[str, float], None]"

_WINDOW = 10  # rounds that are compared with the ten before to see whether warm-up is over
_STABLE = 0.03  # largest change of the median between two windows that counts as stable
_WARMUP_SHARE = 0.3  # of the time, at most
_FEWEST_WARMUP = 3  # rounds, whatever the time: first calls load libraries and fill caches
_FEWEST = 10  # measured rounds, whatever the time: a median of fewer says nothing


@dataclass(frozen=True)
class BenchConfig:
    """How long and how closely to measure.

    Attributes:
        seconds: time limit over all runs, warm-up included.
        min_rounds: measured before an interval may end the measurement.
        max_rounds: end at the latest.
        relative_width: end when the 95 % interval of every ratio is narrower than this share; 0:
            measure on until the time or the rounds are used up.
        seed: of the order within rounds and of the bootstrap.
        images_per_call: for throughput.
    """

    seconds: float = 10.0
    min_rounds: int = 100
    max_rounds: int = 20_000
    relative_width: float = 0.01
    seed: int = 0
    images_per_call: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= 86_400:
            raise UsageError(f"seconds must be above 0 and at most 86400, got {self.seconds}.")
        if not 2 <= self.min_rounds <= self.max_rounds:
            raise UsageError(
                f"2 <= min_rounds <= max_rounds is wanted, got {self.min_rounds} and "
                f"{self.max_rounds}."
            )
        if self.relative_width < 0 or self.images_per_call < 1:
            raise UsageError("relative_width must be at least 0 and images_per_call at least 1.")


@dataclass(frozen=True)
class Samples:
    """Durations as measured.

    Attributes:
        ns: run → (rounds,) int64 nanoseconds; index i is the same round in every run.
        warmup_rounds: thrown away before.
        stable: whether warm-up ended because the medians stood still, not for want of time.
        stopped: what ended the measurement: a narrow interval, the time, or the round limit.
        seconds: from the first warm-up call to the last sample.
    """

    ns: dict[str, npt.NDArray[np.int64]]
    warmup_rounds: int
    stable: bool
    stopped: Literal["narrow", "time", "rounds"]
    seconds: float


def sample(
    runs: Mapping[str, Run],
    config: BenchConfig,
    *,
    clock: Clock = now_ns,
    progress: Progress | None = None,
) -> Samples:
    """Measure ``runs`` interleaved.

    Every round calls each run twice and times the second call, as a deployed network has caches
    and threads to itself. The order is drawn anew each round, so drift of the clock or the load
    falls on all of them alike. Garbage collection is off meanwhile, as in ``timeit``. Three rounds
    of warm-up and ten measured ones are taken whatever the time limit, or ``max_rounds`` if fewer.

    Args:
        runs: name → what to time; the first ratio is taken against the first run.
        config: limits.
        clock: nanoseconds; another one for tests.
        progress: called now and then with (phase, share done).

    Raises:
        UsageError: no run was given.
    """
    if not runs:
        raise UsageError("Nothing to measure: no run was given.")
    order = list(runs)
    generator = random.Random(config.seed)
    ns: dict[str, list[int]] = {name: [] for name in runs}
    start = clock()
    limit = int(config.seconds * 1e9)

    def one_round(into: dict[str, list[int]]) -> None:
        generator.shuffle(order)
        for name in order:
            call = runs[name]
            call()  # has its own data put back into the caches, and its threads awake
            before = clock()
            call()
            into[name].append(clock() - before)

    def told(phase: str) -> float:
        share = (clock() - start) / limit
        if progress is not None:
            progress(phase, min(1.0, share))
        return share

    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        warm: dict[str, list[int]] = {name: [] for name in runs}
        stable = False
        for _ in range(_FEWEST_WARMUP):
            one_round(warm)
        while not stable and told("warm-up") < _WARMUP_SHARE:
            for _ in range(_WINDOW):
                one_round(warm)
                if clock() - start >= limit * _WARMUP_SHARE:
                    break
            stable = all(_is_stable(durations) for durations in warm.values())
        stopped: Literal["narrow", "time", "rounds"] = "rounds"
        check_at = config.min_rounds
        told("measure")
        for count in range(1, config.max_rounds + 1):
            one_round(ns)
            if count >= _FEWEST and clock() - start >= limit:
                stopped = "time"
                break
            if count == check_at:
                if _narrow(ns, config):
                    stopped = "narrow"
                    break
                # Seldom enough that the intervals do not cost more than the samples, and that
                # stopping at a lucky moment stays unlikely.
                check_at = count + max(config.min_rounds, count // 2)
            if count % _WINDOW == 0:
                told("measure")
        if progress is not None:
            progress("measure", 1.0)
    finally:
        if collecting:
            gc.enable()
    return Samples(
        ns={name: np.asarray(ns[name], np.int64) for name in runs},
        warmup_rounds=len(next(iter(warm.values()))),
        stable=stable,
        stopped=stopped,
        seconds=(clock() - start) / 1e9,
    )


def _is_stable(durations: list[int]) -> bool:
    if len(durations) < 2 * _WINDOW:
        return False
    last = float(np.median(durations[-_WINDOW:]))
    before = float(np.median(durations[-2 * _WINDOW : -_WINDOW]))
    return abs(last - before) <= _STABLE * max(before, 1.0)


def _narrow(ns: Mapping[str, list[int]], config: BenchConfig) -> bool:
    """Whether every ratio's interval is narrow enough; a single run has none, so time decides."""
    if len(ns) < 2 or config.relative_width == 0:
        return False
    return all(
        ratio_of_medians(
            np.maximum(ns[a], 1), np.maximum(ns[b], 1), seed=config.seed, resamples=200
        ).relative_width
        < config.relative_width
        for a, b in combinations(ns, 2)
    )
