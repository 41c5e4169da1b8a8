"""Min-max: nothing is clipped."""

from __future__ import annotations

from edgevision.quantization.calibrators.base import Observer
from edgevision.quantization.table import TensorRange


class MinMaxObserver(Observer):
    """The whole range seen. Safe, and coarse where a few values lie far out."""

    @classmethod
    def of(cls, seen: TensorRange) -> MinMaxObserver:
        observer = cls()
        observer._take(seen)
        return observer

    def result(self) -> TensorRange:
        """Low and high are the smallest and largest value seen."""
        return TensorRange(
            minimum=self.minimum,
            maximum=self.maximum,
            low=self.minimum,
            high=self.maximum,
            amax=max(-self.minimum, self.maximum),
            count=self.count,
        )
