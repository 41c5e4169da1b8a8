from __future__ import annotations

import numpy as np
import pytest

from edgevision.errors import ModelError, UsageError
from edgevision.quantization.calibrators import CALIBRATORS
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

    def test_order_split_and_merging_leave_no_trace(self, method):
        values = INPUTS["one outlier"]
        whole = observe(method, values)
        parts = np.array_split(values[::-1], 7)
        assert _equal(observe(method, *parts), whole)
        first, second = CALIBRATORS.get(method)(), CALIBRATORS.get(method)()
        for part in parts[:3]:
            first.observe(part)
        for part in parts[3:]:
            second.observe(part.reshape(1, -1, 1))
        second.merge(first)
        assert _equal(second.result(), whole)

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
    with pytest.raises(UsageError, match="minmax, percentile"):
        CALIBRATORS.get("entropi")
