"""Percentile: a stated share of the values may be clipped, so that the rest gets finer steps."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgevision.quantization.calibrators.base import Observer
from edgevision.quantization.histogram import HALF, Histogram, Int64
from edgevision.quantization.table import TensorRange

PERCENTILE = 99.99


class PercentileObserver(Observer):
    """At most ``100 - PERCENTILE`` percent of the values are clipped at each end.

    Read off a histogram at bin edges, rounded outwards; never wider than what was seen.
    """

    settings: ClassVar[dict[str, Any]] = {"percentile": PERCENTILE}

    def __init__(self) -> None:
        super().__init__()
        self.histogram = Histogram()

    def result(self) -> TensorRange:
        """Low and high for asymmetric schemes, amax (of absolute values) for symmetric ones."""
        bins, width = self.histogram.bins, self.histogram.width
        allowed = int(self.count * (1 - PERCENTILE / 100))
        high = _edge(bins[HALF:], allowed) * width
        low = 0.0 - _edge(bins[:HALF][::-1], allowed) * width
        amax = _edge(bins[HALF:] + bins[:HALF][::-1], allowed) * width
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

    def _observe_impl(self, flat: npt.NDArray[np.float32], low: float, high: float) -> None:
        self.histogram.add(flat, low, high)

    def _merge_impl(self, other: Any) -> None:
        self.histogram.merge(other.histogram)


def _edge(counts: Int64, allowed: int) -> int:
    """Smallest number of leading bins such that at most ``allowed`` values lie beyond them."""
    beyond = np.cumsum(counts[::-1])  # values in the last 1, 2, … bins
    clipped = int(np.searchsorted(beyond, allowed, side="right"))
    return len(counts) - clipped
