from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgevision.benchmark.compare import RunStats
from edgevision.benchmark.statistics import percentile, ratio_of_medians

_DURATIONS = hnp.arrays(np.float64, st.integers(2, 60), elements=st.floats(1e-3, 1e6))


def test_percentiles_of_known_values() -> None:
    samples = np.arange(1, 101)
    np.random.default_rng(0).shuffle(samples)
    assert percentile(samples, 50) == pytest.approx(50.5)
    assert percentile(samples, 99) == pytest.approx(99.01)
    assert percentile([7], 99) == 7


def test_run_figures_of_known_durations() -> None:
    stats = RunStats.of(np.array([1_000_000] * 9 + [11_000_000], np.int64), images_per_call=4)
    assert stats.samples == 10
    assert stats.latency_p50_ms == 1.0
    assert stats.latency_max_ms == 11.0
    assert stats.latency_mean_ms == pytest.approx(2.0)
    assert stats.throughput == pytest.approx(2000.0), "4 images in 2 ms"


def _coverage(draw: object, true_ratio: float, trials: int) -> float:
    inside = 0
    for trial in range(trials):
        a, b = draw(np.random.default_rng(trial))  # type: ignore[operator]
        ratio = ratio_of_medians(a, b, seed=trial, resamples=300)
        inside += ratio.low <= true_ratio <= ratio.high
    return inside / trials


def test_interval_covers_the_true_ratio_in_about_95_percent() -> None:
    # Skewed, as latencies are: medians of lognormals are exp(mu), whatever sigma.
    def draw(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return generator.lognormal(np.log(3), 0.3, 200), generator.lognormal(0, 0.5, 200)

    # 300 trials: 0.95 give or take 0.03 by chance; blocks make the interval a little narrow.
    assert 0.90 <= _coverage(draw, 3.0, 300) <= 0.99


def test_a_disturbance_shared_by_the_round_narrows_the_interval() -> None:
    generator = np.random.default_rng(1)
    load = generator.lognormal(0, 0.5, 400)
    a, b = 3 * load * generator.normal(1, 0.01, 400), load * generator.normal(1, 0.01, 400)
    paired = ratio_of_medians(a, b)
    apart = ratio_of_medians(a, generator.permutation(b))
    assert paired.low <= 3 <= paired.high
    assert paired.relative_width < 0.5 * apart.relative_width


def test_blocks_hold_where_neighbours_are_alike() -> None:
    """Drift: single draws would be far too sure, blocks much less so."""

    def series(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        noise = generator.normal(0, 0.05, (2, 250))
        state = np.zeros((2, 250))
        for i in range(1, 250):
            state[:, i] = 0.6 * state[:, i - 1] + noise[:, i]
        return np.exp(state[0]) * 2, np.exp(state[1])

    blocks = _coverage(series, 2.0, 150)
    single = 0
    for trial in range(150):
        generator = np.random.default_rng(trial)
        a, b = series(generator)
        index = generator.integers(0, 250, (200, 250))
        low, high = np.percentile(
            np.median(a[index], axis=1) / np.median(b[index], axis=1), [2.5, 97.5]
        )
        single += low <= 2.0 <= high
    assert blocks >= 0.80
    assert blocks > single / 150 + 0.05


@given(_DURATIONS)
@settings(max_examples=60, deadline=None)
def test_interval_holds_the_estimate_and_a_run_is_as_fast_as_itself(a: np.ndarray) -> None:
    itself = ratio_of_medians(a, a, resamples=50)
    assert (itself.low, itself.value, itself.high) == (1.0, 1.0, 1.0)
    other = ratio_of_medians(a, a[::-1] * 2, resamples=50)
    assert other.low <= other.value <= other.high
    assert other.value == pytest.approx(0.5)


@given(_DURATIONS, st.floats(0.01, 100))
@settings(max_examples=60, deadline=None)
def test_ratio_scales_with_the_baseline(b: np.ndarray, factor: float) -> None:
    one = ratio_of_medians(b, b[::-1], seed=3, resamples=50)
    scaled = ratio_of_medians(b * factor, b[::-1], seed=3, resamples=50)
    assert scaled.value == pytest.approx(one.value * factor)
    assert scaled.low == pytest.approx(one.low * factor)
    assert scaled.high == pytest.approx(one.high * factor)


def test_seed_decides_the_interval() -> None:
    generator = np.random.default_rng(5)
    a, b = generator.lognormal(0, 1, 50), generator.lognormal(0, 1, 50)
    assert ratio_of_medians(a, b, seed=1) == ratio_of_medians(a, b, seed=1)
    assert ratio_of_medians(a, b, seed=1) != ratio_of_medians(a, b, seed=2)


@pytest.mark.parametrize(
    ("a", "b"),
    [([1.0], [1.0]), ([1, 2], [1, 2, 3]), ([0, 1], [1, 1]), ([1, np.nan], [1, 1]), ([[1, 2]], [1])],
)
def test_series_that_have_no_ratio(a: list[float], b: list[float]) -> None:
    with pytest.raises(ValueError, match=r"wants two series|above zero"):
        ratio_of_medians(a, b)
