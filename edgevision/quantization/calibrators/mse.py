"""MSE: the range whose expected squared quantization error, clipping included, is smallest."""

from __future__ import annotations

import numpy as np

from edgevision.quantization.calibrators.clipping import (
    ClippingObserver,
    clipping_error,
    filled,
    rounding_error,
)
from edgevision.quantization.histogram import Int64

_SYMMETRIC, _ASYMMETRIC = 127, 255  # steps from zero to amax, and from low to high


class MseObserver(ClippingObserver):
    """Smallest expected squared error in 8 bits.

    Rounding costs ``step**2 / 12`` a value, clipping the squared distance to the bound (Banner et
    al., "Post training 4-bit quantization of convolutional networks for rapid-deployment", 2019,
    with the histogram in place of a distribution). Exact zeros cost nothing.
    """

    def _symmetric(self, magnitudes: Int64) -> int:
        counts = self._nonzero(magnitudes)
        edges = np.arange(filled(counts) + 1)
        rounding = rounding_error(counts, edges / _SYMMETRIC)
        return int(np.argmin(clipping_error(counts)[edges] + rounding))

    def _asymmetric(self, negative: Int64, positive: Int64) -> tuple[int, int]:
        positive = self._nonzero(positive)
        clipping = clipping_error(negative), clipping_error(positive)
        bounds = [filled(negative), filled(positive)]
        # One bound after the other; each step lowers the error, so that there is an end.
        while True:
            before = list(bounds)
            for side in (0, 1):
                edges = np.arange(bounds[side] + 1)
                steps = (edges + bounds[1 - side]) / _ASYMMETRIC
                error = clipping[side][edges] + rounding_error(negative + positive, steps)
                bounds[side] = int(np.argmin(error))
            if bounds == before:
                return bounds[0], bounds[1]
