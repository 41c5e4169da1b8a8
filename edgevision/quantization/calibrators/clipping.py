"""What calibrators share that choose how much of a histogram's ends to clip."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt

from edgevision.quantization.calibrators.base import Observer
from edgevision.quantization.histogram import HALF, Histogram, Int64
from edgevision.quantization.table import TensorRange

Float64 = npt.NDArray[np.float64]


class ClippingObserver(Observer):
    """Counts values in a histogram and clips at edges of its bins; never wider than what was seen.

    Subclasses choose the edges, as numbers of bins from zero outwards. They are given (HALF,)
    int64 counts by magnitude; exact zeros are in the first bin of ``positive``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.histogram = Histogram()

    @classmethod
    def of(cls, seen: TensorRange) -> ClippingObserver | None:
        if seen.histogram is None:
            return None
        observer = cls()
        observer._take(seen)
        observer.histogram = seen.histogram
        return observer

    def result(self) -> TensorRange:
        """Low and high for asymmetric schemes, amax (of absolute values) for symmetric ones."""
        bins, width = self.histogram.bins, self.histogram.width
        negative, positive = bins[:HALF][::-1], bins[HALF:]
        below, above = self._asymmetric(negative, positive)
        low, high = 0.0 - below * width, above * width
        amax = self._symmetric(negative + positive) * width
        # With no value on one side of zero the nearest value stands for that bound.
        high = min(high, self.maximum) if self.maximum > 0 else self.maximum
        low = max(low, self.minimum) if self.minimum < 0 else self.minimum
        return TensorRange(
            minimum=self.minimum,
            maximum=self.maximum,
            low=low,
            high=high,
            amax=min(amax, max(-self.minimum, self.maximum)),
            count=self.count,
            histogram=self.histogram,
        )

    @abstractmethod
    def _symmetric(self, magnitudes: Int64) -> int:
        """Bins to keep of ``magnitudes``, both signs together."""

    @abstractmethod
    def _asymmetric(self, negative: Int64, positive: Int64) -> tuple[int, int]:
        """Bins to keep below and above zero."""

    def _nonzero(self, counts: Int64) -> Int64:
        """``counts`` without the exact zeros, which every range represents exactly."""
        out: Int64 = counts.copy()
        out[0] -= self.histogram.zeros
        return out

    def _observe_impl(self, flat: npt.NDArray[np.float32], low: float, high: float) -> None:
        self.histogram.add(flat, low, high)

    def _merge_impl(self, other: Any) -> None:
        self.histogram.merge(other.histogram)


def filled(counts: Int64) -> int:
    """Number of bins up to the last one that holds a value, 0 where none does."""
    last = np.flatnonzero(counts)
    return int(last[-1]) + 1 if last.size else 0


def clipping_error(counts: Int64) -> Float64:
    """Squared error of clipping at each edge, in squared bin widths.

    Args:
        counts: (B,) by magnitude.

    Returns:
        (B + 1,); at ``t`` the sum of ``(x - t)**2`` over the values beyond, each at its bin's
        centre.
    """
    centre = np.arange(len(counts)) + 0.5
    moments = (counts * centre**power for power in range(3))
    beyond = [np.append(np.cumsum(m[::-1])[::-1], 0.0) for m in moments]
    edge = np.arange(len(counts) + 1)
    error: Float64 = beyond[2] - 2 * edge * beyond[1] + edge**2 * beyond[0]
    return np.maximum(error, 0.0)


def rounding_error(counts: Int64, steps: Float64) -> Float64:
    """Squared error of rounding to whole multiples of each step, in squared bin widths.

    ``step**2 / 12`` a value, the variance of an error spread evenly over one step; but what lies
    within half a step of zero becomes zero and costs its own square.

    Args:
        counts: (B,) by magnitude, exact zeros left out.
        steps: (K,) in bin widths.

    Returns:
        (K,).
    """
    edge, centre = np.arange(len(counts) + 1), np.arange(len(counts)) + 0.5
    number, square = (
        np.interp(steps / 2, edge, np.append(0.0, np.cumsum(part)))
        for part in (counts, counts * centre**2)
    )
    error: Float64 = square + (counts.sum() - number) * steps**2 / 12
    return error
