"""Percentile: a stated share of the values may be clipped, so that the rest gets finer steps."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from edgevision.quantization.calibrators.clipping import ClippingObserver
from edgevision.quantization.histogram import Int64

PERCENTILE = 99.99


class PercentileObserver(ClippingObserver):
    """At most ``100 - PERCENTILE`` percent of the values are clipped at each end."""

    settings: ClassVar[dict[str, Any]] = {"percentile": PERCENTILE}

    def _symmetric(self, magnitudes: Int64) -> int:
        return self._edge(magnitudes)

    def _asymmetric(self, negative: Int64, positive: Int64) -> tuple[int, int]:
        return self._edge(negative), self._edge(positive)

    def _edge(self, counts: Int64) -> int:
        """Smallest number of leading bins such that at most the share lies beyond them."""
        allowed = int(self.count * (1 - PERCENTILE / 100))
        beyond = np.cumsum(counts[::-1])  # values in the last 1, 2, … bins
        return len(counts) - int(np.searchsorted(beyond, allowed, side="right"))
