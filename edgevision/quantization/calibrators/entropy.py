"""Entropy: the range whose quantized distribution tells least apart from the one that was seen."""

from __future__ import annotations

import numpy as np

from edgevision.quantization.calibrators.clipping import (
    ClippingObserver,
    Float64,
    clipping_error,
    filled,
    rounding_error,
)
from edgevision.quantization.histogram import Int64

_SYMMETRIC, _ASYMMETRIC = 128, 256  # levels of a magnitude, and from low to high
_STRIDE = 8  # bins from one candidate to the next: at most 1/128 of the range


class EntropyObserver(ClippingObserver):
    """Smallest Kullback-Leibler divergence of the quantized distribution from the observed one.

    As in Migacz, "8-bit inference with TensorRT", 2017: what lies beyond a candidate counts into
    its last bin, the bins of one level share its count evenly. Three things differ. Exact zeros,
    half of the values behind a Relu, are left out: every range represents them exactly. For
    asymmetric schemes both bounds are searched, in turn. And a candidate is considered only where
    its expected squared error is no larger than that of the full range: the divergence does not
    see how far away a clipped value lies, and would cut off the few large values of a
    squeeze-and-excite gate or an attention map that matter most.
    """

    def _symmetric(self, magnitudes: Int64) -> int:
        counts = self._nonzero(magnitudes)
        full = filled(counts)
        ends = _candidates(full, _SYMMETRIC)
        error = clipping_error(counts)[ends] + rounding_error(counts, ends / _SYMMETRIC)
        ends = ends[error <= error[0]]
        return _best(counts, np.zeros_like(ends), ends, ends, _SYMMETRIC)

    def _asymmetric(self, negative: Int64, positive: Int64) -> tuple[int, int]:
        positive = self._nonzero(positive)
        counts, zero = np.concatenate([negative[::-1], positive]), len(negative)
        clipping = clipping_error(negative), clipping_error(positive)
        bounds = [filled(negative), filled(positive)]
        # One bound after the other, inwards only, so that there is an end.
        while True:
            before = list(bounds)
            for side in (1, 0):
                other = bounds[1 - side]
                ends = _candidates(bounds[side], _ASYMMETRIC - other)
                steps = (ends + other) / _ASYMMETRIC
                error = clipping[side][ends] + rounding_error(negative + positive, steps)
                ends = ends[error <= error[0]]
                fixed = np.full_like(ends, other)
                below, above = (ends, fixed) if side == 0 else (fixed, ends)
                bounds[side] = _best(counts, zero - below, zero + above, ends, _ASYMMETRIC)
            if bounds == before:
                return bounds[0], bounds[1]


def _candidates(full: int, least: int) -> Int64:
    """``full`` and what is left of it stride by stride, down to ``least`` bins."""
    return np.append(full, np.arange(full - _STRIDE, max(least, 1) - 1, -_STRIDE)).astype(np.int64)


def _best(counts: Int64, starts: Int64, stops: Int64, answers: Int64, levels: int) -> int:
    """The answer of least divergence; the first, and so the widest, of equals."""
    if not counts.any():
        return int(answers[0])
    return int(answers[np.argmin(_divergence(counts, starts, stops, levels))])


def _divergence(counts: Int64, starts: Int64, stops: Int64, levels: int) -> Float64:
    """KL divergence for each candidate range of bins ``[start, stop)``.

    From running sums, one difference a level and candidate instead of one term a bin.

    Args:
        counts: (B,).
        starts, stops: (K,) bins.
        levels: that the range is quantized to; bins are spread over them evenly.

    Returns:
        (K,) float64. A level that holds none but the clipped values counts as one, else their
        divergence would be infinite and no far outlier could be clipped to anywhere but the bulk.
    """
    sums, used, entropy = (
        np.concatenate([[0], np.cumsum(part)]) for part in (counts, counts > 0, _xlogx(counts))
    )
    edges = starts[:, None] + (stops - starts)[:, None] * np.arange(levels + 1) // levels
    inside = np.diff(sums[edges], axis=1)  # (K, levels)
    spread = np.diff(used[edges], axis=1)
    below, above = sums[starts], sums[-1] - sums[stops]
    first, last = counts[starts], counts[stops - 1]
    observed = inside.copy()
    observed[:, 0] += below
    observed[:, -1] += above
    spread[:, 0] += (first == 0) & (below > 0)
    spread[:, -1] += (last == 0) & (above > 0)
    own = entropy[stops] - entropy[starts]
    own += _xlogx(first + below) - _xlogx(first) + _xlogx(last + above) - _xlogx(last)
    share = observed * np.log(np.maximum(inside, 1) / np.maximum(spread, 1))
    total = sums[-1]
    kept = np.log(np.maximum(sums[stops] - sums[starts], 1))
    divergence: Float64 = (own - share.sum(axis=1)) / total - np.log(total) + kept
    return divergence


def _xlogx(counts: Int64) -> Float64:
    values = counts.astype(np.float64)
    return values * np.log(np.maximum(values, 1))
