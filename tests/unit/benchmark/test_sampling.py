from __future__ import annotations

import gc
from collections.abc import Callable

import numpy as np
import pytest

from edgevision.benchmark import BenchConfig, compare, sample
from edgevision.errors import UsageError


class Machine:
    """A clock that stands still except while a run of known cost is called."""

    def __init__(self) -> None:
        self.now = 0
        self.calls: list[str] = []

    def clock(self) -> int:
        return self.now

    def run(self, name: str, cost: Callable[[int], int]) -> Callable[[], None]:
        count = 0

        def call() -> None:
            nonlocal count
            self.calls.append(name)
            self.now += cost(count)
            count += 1

        return call


def test_known_costs_are_measured_exactly() -> None:
    machine = Machine()
    runs = {
        "a": machine.run("a", lambda i: 3_000_000),
        "b": machine.run("b", lambda i: 1_000_000),
    }
    result = compare(runs, baseline="a", config=BenchConfig(seconds=100), clock=machine.clock)
    assert result.runs["a"].latency_p50_ms == 3.0
    assert result.runs["b"].latency_p99_ms == 1.0
    assert result.runs["b"].throughput == pytest.approx(1000)
    ratio = result.ratios["b"]
    assert (ratio.low, ratio.value, ratio.high) == (3.0, 3.0, 3.0)
    assert "a" not in result.ratios
    assert result.samples.stopped == "narrow"
    assert len(result.samples.ns["a"]) == 100, "as soon as the interval may end it"
    assert result.samples.stable


def test_runs_are_interleaved_in_random_order() -> None:
    machine = Machine()
    runs = {name: machine.run(name, lambda i: 1000 + i % 7 * 300) for name in "abc"}
    config = BenchConfig(seconds=0.05, min_rounds=50, max_rounds=300, relative_width=0)
    result = sample(runs, config, clock=machine.clock)
    assert machine.calls[::2] == machine.calls[1::2], "each turn is a lead-in and a timed call"
    turns = machine.calls[::2]
    rounds = [tuple(turns[i : i + 3]) for i in range(0, len(turns), 3)]
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds)
    assert len(set(rounds)) == 6, "every order occurs"
    assert len(result.ns["a"]) == 300
    assert result.stopped == "rounds"
    again = Machine()
    runs = {name: again.run(name, lambda i: 1000 + i % 7 * 300) for name in "abc"}
    sample(runs, config, clock=again.clock)
    assert again.calls == machine.calls, "the seed decides the order"


def test_only_the_call_after_the_lead_in_is_timed() -> None:
    machine = Machine()
    # Cold after the other run's turn, warm after its own.
    runs = {
        name: machine.run(name, lambda i: 9_000_000 if i % 2 == 0 else 1_000_000) for name in "ab"
    }
    result = sample(runs, BenchConfig(seconds=60, max_rounds=100), clock=machine.clock)
    assert set(result.ns["a"].tolist()) == set(result.ns["b"].tolist()) == {1_000_000}


def test_warm_up_is_thrown_away() -> None:
    machine = Machine()
    # Forty slow calls, as of a JIT or a waking clock, then steady.
    run = machine.run("a", lambda i: 5_000_000 * max(1, 40 - i))
    result = sample({"a": run}, BenchConfig(seconds=60, max_rounds=100), clock=machine.clock)
    assert result.warmup_rounds >= 20, "two calls a round"
    assert result.stable
    assert set(result.ns["a"].tolist()) == {5_000_000}


def test_a_run_that_never_settles_is_said() -> None:
    machine = Machine()
    run = machine.run("a", lambda i: 1_000_000 * (i + 1))
    result = sample({"a": run}, BenchConfig(seconds=1), clock=machine.clock)
    assert not result.stable
    assert result.stopped == "time"


def test_time_ends_it_but_not_before_ten_rounds() -> None:
    machine = Machine()
    run = machine.run("a", lambda i: 5_000_000_000)
    result = sample({"a": run}, BenchConfig(seconds=1), clock=machine.clock)
    assert len(result.ns["a"]) == 10
    assert result.stopped == "time"
    assert result.seconds == pytest.approx(2 * 5 * (10 + result.warmup_rounds))


def test_wide_intervals_are_measured_on() -> None:
    generator = np.random.default_rng(0)
    machine = Machine()
    runs = {
        name: machine.run(name, lambda i: int(generator.lognormal(13, 1))) for name in ("a", "b")
    }
    tight = sample(runs, BenchConfig(seconds=4, relative_width=0.05), clock=machine.clock)
    loose = sample(runs, BenchConfig(seconds=4, relative_width=0.5), clock=machine.clock)
    assert len(tight.ns["a"]) > 3 * len(loose.ns["a"])


def test_garbage_collection_is_off_and_comes_back() -> None:
    seen = []
    config = BenchConfig(seconds=0.05, max_rounds=100)
    sample({"a": lambda: seen.append(gc.isenabled())}, config)
    assert seen
    assert not any(seen)
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        sample({"a": lambda: 1 // 0}, config)
    assert gc.isenabled()


def test_progress_goes_forward() -> None:
    machine = Machine()
    told: list[tuple[str, float]] = []
    sample(
        {"a": machine.run("a", lambda i: 1_000_000)},
        BenchConfig(seconds=0.5),
        clock=machine.clock,
        progress=lambda phase, share: told.append((phase, share)),
    )
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert shares[0] >= 0
    assert shares[-1] <= 1
    assert told[0][0] == "warm-up"
    assert told[-1] == ("measure", 1.0)


def test_values_for_json() -> None:
    machine = Machine()
    runs = {name: machine.run(name, lambda i: 1_000_000 + i % 5) for name in ("a", "b")}
    config = BenchConfig(seconds=30, max_rounds=3000, relative_width=0, images_per_call=2)
    values = compare(runs, baseline="a", config=config, clock=machine.clock).to_dict()
    assert values["baseline"] == "a"
    assert len(values["samples_ms"]["b"]) == 1000
    assert values["protocol"]["rounds"] == 3000
    assert values["protocol"]["images_per_call"] == 2
    assert values["runs"]["a"]["samples"] == 3000
    assert {"device", "packages", "load", "load_after"} <= values["environment"].keys()


def test_misuse_is_told() -> None:
    with pytest.raises(UsageError, match="no run was given"):
        sample({}, BenchConfig())
    with pytest.raises(UsageError, match="'x' is none of the runs: a"):
        compare({"a": lambda: None}, baseline="x")
    for bad in (
        {"seconds": 0},
        {"seconds": float("nan")},
        {"min_rounds": 1},
        {"min_rounds": 10, "max_rounds": 5},
        {"relative_width": -1},
        {"images_per_call": 0},
    ):
        with pytest.raises(UsageError):
            BenchConfig(**bad)
