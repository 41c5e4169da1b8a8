from __future__ import annotations

import math
import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevision.errors import ModelError, UsageError
from edgevision.quantization.calibrators import CALIBRATORS
from edgevision.quantization.calibrators.entropy import _divergence
from edgevision.quantization.table import TensorRange

DATA = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
INPUTS = {
    "both signs": DATA,
    "after a Relu": np.maximum(DATA, 0),
    "negative": -np.abs(DATA) - np.float32(0.5),
    "far from zero": np.abs(DATA) + np.float32(3),
    "zero": np.zeros(100, np.float32),
    "one value": np.float32([2.5]),
    "one outlier": np.append(DATA, np.float32(1e4)),
}


def observe(method: str, *parts: np.ndarray) -> TensorRange:
    observer = CALIBRATORS.get(method)()
    for part in parts:
        observer.observe(part)
    return observer.result()


@pytest.mark.parametrize("method", CALIBRATORS.names())
class TestEveryCalibrator:
    """What holds for any calibrator, those that others register among them."""

    @pytest.mark.parametrize("name", INPUTS)
    def test_range_lies_inside_what_was_seen(self, method, name):
        values = INPUTS[name]
        found = observe(method, values)
        assert found.minimum == values.min()
        assert found.maximum == values.max()
        assert found.count == values.size
        assert found.minimum <= found.low <= found.high <= found.maximum
        assert 0 <= found.amax <= np.abs(values).max()

    @settings(max_examples=25, deadline=None)
    @given(data=st.data())
    def test_order_and_merging_leave_no_trace(self, method, data):
        seed = data.draw(st.integers(0, 2**32 - 1), label="seed")
        random = np.random.default_rng(seed)
        images = [
            (random.standard_t(2, random.integers(1, 300)) * 10.0 ** random.integers(-3, 4)).astype(
                np.float32
            )
            for _ in range(data.draw(st.integers(1, 8), label="images"))
        ]
        whole = observe(method, *images)
        order = data.draw(st.permutations(range(len(images))), label="order")
        observers = [CALIBRATORS.get(method)() for _ in range(3)]
        for index in order:
            observers[random.integers(3)].observe(images[index].reshape(1, -1, 1))
        merged = CALIBRATORS.get(method)()
        for observer in observers:
            # As it comes back from another process.
            merged.merge(pickle.loads(pickle.dumps(observer)))
        assert _equal(merged.result(), whole)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_nan_and_infinity_are_refused(self, method, bad):
        with pytest.raises(ModelError, match="NaN or infinite"):
            observe(method, np.float32([0, bad, 1]))

    def test_nothing_seen_changes_nothing(self, method):
        assert _equal(observe(method, DATA, np.empty(0, np.float32)), observe(method, DATA))


def _equal(a: TensorRange, b: TensorRange) -> bool:
    numbers = ("minimum", "maximum", "low", "high", "amax", "count")
    if any(getattr(a, name) != getattr(b, name) for name in numbers):
        return False
    if a.histogram is None or b.histogram is None:
        return a.histogram is b.histogram
    return (
        a.histogram.exponent == b.histogram.exponent
        and a.histogram.zeros == b.histogram.zeros
        and np.array_equal(a.histogram.bins, b.histogram.bins)
    )


def test_minmax_clips_nothing():
    found = observe("minmax", DATA)
    assert (found.low, found.high) == (DATA.min(), DATA.max())
    assert found.amax == np.abs(DATA).max()


def test_average_is_the_exact_mean_of_the_images_extremes():
    random = np.random.default_rng(3)
    images = [
        (random.normal(size=50) * scale).astype(np.float32)
        for scale in (1e-30, 1.0, 7.0, 1e30, 3.0)
    ]
    found = observe("average", *images)
    assert found.low == math.fsum(float(i.min()) for i in images) / 5
    assert found.high == math.fsum(float(i.max()) for i in images) / 5
    assert found.amax == math.fsum(float(np.abs(i).max()) for i in images) / 5


NORMAL = np.random.default_rng(1).normal(size=200_000)
ACTIVATIONS = {
    "normal": NORMAL,
    "relu": np.maximum(NORMAL, 0),
    "relu6 with a third at 6": np.clip(NORMAL * 12, 0, 6),
    "silu": NORMAL * 3 / (1 + np.exp(-NORMAL * 3)),
    "gate": 1 / (1 + np.exp(-3 * NORMAL)),
    "gate, mostly shut": 1 / (1 + np.exp(5 - NORMAL)),
    "gate, open for few": np.where(NORMAL > 3, 1.0, 1 / (1 + np.exp(5 - NORMAL))),
    "hard gate": np.clip(NORMAL + 0.5, 0, 1),
    "attention": np.exp(2 * NORMAL) / np.exp(2 * NORMAL).reshape(-1, 50).sum(1).repeat(50),
    "lognormal": np.exp(1.5 * NORMAL),
    "image of 256 levels": np.clip(np.rint(128 + 50 * NORMAL), 0, 255) / 60 - 2,
    "far to one side": np.where(NORMAL < -3.5, NORMAL, NORMAL + 5),
    "outliers that matter": np.where(np.abs(NORMAL) > 3.3, NORMAL * 30, NORMAL),
}


def sqnr(values: np.ndarray, low: float, high: float, limits: tuple[int, int]) -> float:
    """Signal over the quantization's noise, in dB."""
    scale = (max(high, 0.0) - min(low, 0.0)) / (limits[1] - limits[0])
    zero = np.rint(limits[0] - min(low, 0.0) / scale)
    out = (np.clip(np.rint(values / scale) + zero, *limits) - zero) * scale
    return float(10 * np.log10(np.mean(values**2) / np.mean((out - values) ** 2)))


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("method", ["entropy", "mse"])
def test_clipping_never_costs_more_than_it_gains(method, name):
    """Asymmetric uint8 and symmetric int8, against no clipping at all."""
    values = ACTIVATIONS[name].astype(np.float32)
    found, full = observe(method, values), observe("minmax", values)
    wide = sqnr(values, full.low, full.high, (0, 255))
    assert sqnr(values, found.low, found.high, (0, 255)) > wide - 0.15
    wide = sqnr(values, -full.amax, full.amax, (-127, 127))
    assert sqnr(values, -found.amax, found.amax, (-127, 127)) > wide - 0.15


@pytest.mark.parametrize("name", ["normal", "relu", "silu", "lognormal", "outliers that matter"])
def test_mse_is_near_the_best_range_there_is(name):
    values = ACTIVATIONS[name].astype(np.float32)[:50_000]
    found = observe("mse", values)
    peak = max(-found.minimum, found.maximum)
    best = max(sqnr(values, -t, t, (-127, 127)) for t in np.linspace(0.02, 1, 200) * peak)
    assert sqnr(values, -found.amax, found.amax, (-127, 127)) > best - 0.1
    here = sqnr(values, found.low, found.high, (0, 255))
    for low in np.linspace(0.05, 1, 20) * found.minimum:
        for high in np.linspace(0.05, 1, 20) * found.maximum:
            # SiLU piles values up at its minimum; where a level falls there is worth 0.3 dB.
            assert sqnr(values, low, high, (0, 255)) < here + 0.4


def test_entropy_clips_a_long_tail():
    values = np.random.default_rng(2).standard_t(3, 200_000).astype(np.float32)
    found = observe("entropy", values)
    assert 10 < found.amax < 0.5 * max(-found.minimum, found.maximum)
    assert 0.5 * found.minimum < found.low < -10
    assert 10 < found.high < 0.5 * found.maximum


def test_divergence_is_that_of_the_written_out_distributions():
    random = np.random.default_rng(5)
    counts = random.poisson(np.concatenate([np.linspace(0, 9, 40), np.linspace(20, 0, 60)]))
    starts, stops = np.array([0, 8, 8, 30, 41]), np.array([100, 100, 72, 62, 57])
    expected = []
    for start, stop in zip(starts, stops, strict=True):
        inside = counts[start:stop]
        observed = inside.astype(float)
        observed[0] += counts[:start].sum()
        observed[-1] += counts[stop:].sum()
        quantized = np.zeros(stop - start)
        bounds = (stop - start) * np.arange(17) // 16
        for first, last in pairwise(bounds):
            used = observed[first:last] > 0
            if used.any():
                share = max(inside[first:last].sum(), 1) / used.sum()
                quantized[first:last] = np.where(used, share, 0)
        p, q = observed / observed.sum(), quantized / max(inside.sum(), 1)
        used = p > 0
        expected.append(np.sum(p[used] * np.log(p[used] / q[used])))
    np.testing.assert_allclose(_divergence(counts, starts, stops, 16), expected, rtol=1e-9)


def test_percentile_clips_at_most_its_share_and_not_much_less():
    found = observe("percentile", DATA)
    for beyond in ((found.high < DATA), (found.low > DATA), (np.abs(DATA) > found.amax)):
        assert 5 <= beyond.sum() <= 10  # 0.01 % of 100 000, rounded outwards to a bin's edge


def test_percentile_does_not_follow_one_outlier():
    found = observe("percentile", INPUTS["one outlier"])
    assert found.maximum == 1e4
    assert found.high < 10
    assert found.amax < 10


def test_unknown_method_names_the_known():
    with pytest.raises(UsageError, match="average, entropy, minmax, mse, percentile"):
        CALIBRATORS.get("entropi")
