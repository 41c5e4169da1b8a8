from __future__ import annotations

from dataclasses import replace

from edgevision.quantization.calibrators.minmax import MinMaxObserver
from edgevision.quantization.calibrators.percentile import PercentileObserver
from edgevision.quantization.histogram import Int64
from edgevision.quantization.table import TensorRange


class HalfRange(MinMaxObserver):
    """Half of what was seen: wrong, but a calibrator."""

    def result(self) -> TensorRange:
        return _narrowed(super().result(), 1 / 2)


class ClippedAtFirst(MinMaxObserver):
    """A sixteenth where tensors are large, as in a network's first layers: these then fail."""

    large = 8 * 16 * 28 * 28  # values of eight images

    def result(self) -> TensorRange:
        return _narrowed(super().result(), 1 / 16 if self.count >= self.large else 1)


class ClippedHistogram(PercentileObserver):
    """The same, with all values counted in a histogram."""

    def _edge(self, counts: Int64) -> int:
        whole = super()._edge(counts)
        return whole // 16 if self.count >= ClippedAtFirst.large else whole


def _narrowed(whole: TensorRange, share: float) -> TensorRange:
    return replace(whole, low=whole.low * share, high=whole.high * share, amax=whole.amax * share)
