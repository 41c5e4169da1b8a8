from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgevision.quantization.histogram import HALF, Histogram

VALUES = arrays(
    np.float32,
    st.integers(1, 200),
    elements=st.floats(-(2.0**66), 2.0**66, width=32, allow_nan=False) | st.just(0.0),
)


def histogram(*parts: np.ndarray) -> Histogram:
    out = Histogram()
    for part in parts:
        if part.size:
            out.add(part, float(part.min()), float(part.max()))
    return out


def same(a: Histogram, b: Histogram) -> bool:
    return (a.exponent, a.zeros) == (b.exponent, b.zeros) and np.array_equal(a.bins, b.bins)


@settings(max_examples=200, deadline=None)
@given(VALUES, st.randoms(), st.integers(1, 50))
def test_order_and_split_leave_no_trace(values, random, size):
    shuffled = values.copy()
    random.shuffle(shuffled)
    parts = [shuffled[i : i + size] for i in range(0, len(values), size)]
    whole = histogram(values)
    assert same(whole, histogram(*parts))

    merged = Histogram()
    for part in parts:
        merged.merge(histogram(part))
    assert same(whole, merged)


@settings(max_examples=100, deadline=None)
@given(VALUES)
def test_every_value_lies_in_its_bin(values):
    found = histogram(values)
    assert found.bins.sum() == len(values)
    assert found.zeros == (values == 0).sum()
    magnitude = np.floor(np.abs(values.astype(np.float64)) / found.width).astype(int)
    assert magnitude.max() < HALF
    expected = np.bincount(HALF + np.where(values < 0, -magnitude - 1, magnitude), minlength=4096)
    np.testing.assert_array_equal(found.bins, expected)


def test_merging_leaves_the_other_alone():
    small, large = histogram(np.float32([0.5, -0.1])), histogram(np.float32([100.0]))
    kept = small.bins.copy()
    large.merge(small)
    assert np.array_equal(small.bins, kept)
    assert large.bins.sum() == 3


@pytest.mark.parametrize("value", [0.0, 1e-38, 1.0, 3e38])
def test_extreme_values_are_counted(value):
    found = histogram(np.float32([value, -value]))
    assert found.bins.sum() == 2


def test_more_values_than_one_step_takes():
    values = np.random.default_rng(0).normal(size=100_001).astype(np.float32)
    assert same(histogram(values), histogram(values[:7], values[7:]))
