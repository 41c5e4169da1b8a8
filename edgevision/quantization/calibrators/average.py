"""Average: the mean over the images of each image's smallest and largest value."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from edgevision.quantization.calibrators.base import Observer
from edgevision.quantization.table import TensorRange

_UNIT = 149  # every finite float32 is a whole multiple of 2**-149


class AverageObserver(Observer):
    """What an exponential moving average of batch extremes settles at, without its dependence on
    order and batch size: each image has the same weight, and the sums are exact integers.

    The start that QAT wants for its ranges: an image with an outlier moves them by its share.
    """

    def __init__(self) -> None:
        super().__init__()
        self.images = 0
        self.lows = self.highs = self.peaks = 0  # sums, in units of 2**-149

    def result(self) -> TensorRange:
        """Means of the images' minima, maxima and largest magnitudes, rounded once."""
        whole = self.images << _UNIT
        low, high, peak = (float(Fraction(n, whole)) for n in (self.lows, self.highs, self.peaks))
        return TensorRange(
            minimum=self.minimum,
            maximum=self.maximum,
            low=low,
            high=high,
            amax=peak,
            count=self.count,
        )

    def _observe_impl(self, flat: npt.NDArray[np.float32], low: float, high: float) -> None:
        self.images += 1
        self.lows += _exact(low)
        self.highs += _exact(high)
        self.peaks += _exact(max(-low, high))

    def _merge_impl(self, other: Any) -> None:
        self.images += other.images
        self.lows += other.lows
        self.highs += other.highs
        self.peaks += other.peaks


def _exact(value: float) -> int:
    # float64 holds a float32 times a power of two exactly: its exponent reaches 2**1023.
    return int(np.ldexp(value, _UNIT))
