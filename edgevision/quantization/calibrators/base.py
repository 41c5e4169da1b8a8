"""What a calibrator is: something that watches the values of one tensor go by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgevision.errors import ModelError
from edgevision.quantization.table import TensorRange


class Observer(ABC):
    """Watches one activation tensor, in memory that does not grow with what it has seen.

    Each call of ``observe`` is one image. Whatever the order of the images, and whether by one
    observer or several that are merged, the result must be the same to the last bit.
    """

    settings: ClassVar[dict[str, Any]] = {}  # goes into the table, beside the method's name

    def __init__(self) -> None:
        self.minimum = np.inf
        self.maximum = -np.inf
        self.count = 0

    def observe(self, values: npt.NDArray[np.float32]) -> None:
        """Take in one image's values, an array of any shape, float32.

        Raises:
            ModelError: it holds NaN or infinite values.
        """
        flat = values.reshape(-1)
        if not flat.size:
            return
        low, high = float(flat.min()), float(flat.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ModelError(f"NaN or infinite values (smallest {low}, largest {high}).")
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        self.count += flat.size
        self._observe_impl(flat, low, high)

    def merge(self, other: Observer) -> None:
        """Take in what ``other``, of the same class, has seen."""
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)
        self.count += other.count
        self._merge_impl(other)

    @classmethod
    def of(cls, seen: TensorRange) -> Observer | None:
        """An observer that has seen what ``seen`` tells of; None where that is not enough."""
        return None

    @abstractmethod
    def result(self) -> TensorRange:
        """The range to quantize, from all that was seen; at least one value was."""

    def _take(self, seen: TensorRange) -> None:
        """Take in what every calibrator counts, as a table has kept it."""
        self.minimum, self.maximum, self.count = seen.minimum, seen.maximum, seen.count

    def _observe_impl(self, flat: npt.NDArray[np.float32], low: float, high: float) -> None:
        """What a calibrator wants to know beyond smallest, largest and count."""
        return

    def _merge_impl(self, other: Any) -> None:
        """The same, merged."""
        return
