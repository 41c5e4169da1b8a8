"""A histogram whose bins only ever merge pairwise, so order and batching leave no trace.

With ``width = 2**exponent / HALF``, bin ``i >= 0`` counts values in ``[i, i + 1) * width`` and bin
``-i - 1`` those below zero with magnitudes in that range. When a value falls outside, the exponent
rises and bins 2i and 2i + 1 become bin i; scaling by a power of two is exact, so the result
depends on nothing but the values counted.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

HALF = 2048
_LOWEST = -100  # 2**-100: below that everything counts as nearly zero
_CHUNK = 1 << 15  # values a step: fits the second-level cache with its temporaries

Int64 = npt.NDArray[np.int64]


def _empty() -> Int64:
    return np.zeros(2 * HALF, np.int64)


@dataclass
class Histogram:
    """Counts of float32 values.

    Attributes:
        exponent: all values lie inside ``(-2**exponent, 2**exponent)``.
        zeros: how many were exactly zero; they are in bin 0 as well.
        bins: (2 * HALF,) int64; position ``HALF + i`` is bin ``i``.
    """

    exponent: int = _LOWEST
    zeros: int = 0
    bins: Int64 = field(default_factory=_empty)

    def add(self, values: npt.NDArray[np.float32], low: float, high: float) -> None:
        """Count ``values``, flat and finite, the smallest of them ``low``, the largest ``high``."""
        peak = max(-low, high)
        self.widen(int(np.frexp(peak)[1]) if peak > 0 else _LOWEST)
        scale = np.float32(HALF * 2.0**-self.exponent)
        size = min(_CHUNK, values.size)
        floats = np.empty(size, np.float32)
        sign, narrow = np.empty(size, np.int32), np.empty(size, np.int32)
        wide = np.empty(size, np.intp)  # what bincount takes; by way of int32, which is faster
        for start in range(0, values.size, _CHUNK):
            part = values[start : start + _CHUNK]
            n = part.size
            if low < 0:
                # The sign is taken before scaling, where the smallest values may become zero, and
                # as -1 from the highest bit, which adding zero clears on negative zeros.
                np.add(part, np.float32(0), out=floats[:n])
                np.right_shift(floats[:n].view(np.int32), 31, out=sign[:n])
            np.multiply(part, scale, out=floats[:n])
            np.copyto(narrow[:n], floats[:n], casting="unsafe")  # rounds towards zero
            if low < 0:
                sign[:n] += HALF
                narrow[:n] += sign[:n]
            np.copyto(wide[:n], narrow[:n])
            if low < 0:
                self.bins += np.bincount(wide[:n], minlength=2 * HALF)
            else:
                self.bins[HALF:] += np.bincount(wide[:n], minlength=HALF)
            self.zeros += int(np.count_nonzero(part == 0))

    def merge(self, other: Histogram) -> None:
        """Take in the counts of ``other``, which stays as it is."""
        self.widen(other.exponent)
        same = Histogram(other.exponent, other.zeros, other.bins.copy())
        same.widen(self.exponent)
        self.zeros += same.zeros
        self.bins += same.bins

    def widen(self, exponent: int) -> None:
        """Raise the exponent to at least ``exponent``, merging bins pairwise."""
        steps = exponent - self.exponent if self.bins.any() else 0
        for _ in range(steps):
            pairs = self.bins.reshape(-1, 2).sum(axis=1)
            self.bins[:] = 0
            self.bins[HALF // 2 : HALF // 2 + HALF] = pairs
        self.exponent = max(self.exponent, exponent)

    @property
    def width(self) -> float:
        """Width of one bin, a power of two."""
        return float(2.0**self.exponent / HALF)
