"""What narrowing each group by itself would save."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from edgevision.latency.shapes import Float64, Ints, WidthShapes


class TimeModel(Protocol):
    """What predicts times, measured or estimated."""

    @property
    def shapes(self) -> WidthShapes: ...

    @property
    def tile(self) -> int: ...

    def milliseconds(self, kept: Ints) -> Float64: ...

    def of(self, kept: Mapping[str, int]) -> float: ...

    def by_layer(self) -> dict[str, float]: ...


@dataclass(frozen=True)
class GroupCurve:
    """Time of the network over the width of one group, all others whole.

    Attributes:
        name: of the group.
        units: that may stay, the most first.
        milliseconds: of the network at each of them.
    """

    name: str
    units: tuple[int, ...]
    milliseconds: tuple[float, ...]

    @property
    def saved(self) -> float:
        """Milliseconds that the group at its narrowest saves."""
        return self.milliseconds[0] - self.milliseconds[-1]

    @property
    def steps(self) -> tuple[float, ...]:
        """Milliseconds that each step saves, the first one first."""
        pairs = zip(self.milliseconds, self.milliseconds[1:], strict=False)
        return tuple(before - after for before, after in pairs)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "units": list(self.units),
            "milliseconds": list(self.milliseconds),
            "saved_ms": self.saved,
        }


def group_curves(model: TimeModel, allowed: Mapping[str, Sequence[int]]) -> tuple[GroupCurve, ...]:
    """The curve of each group, those that save most first.

    Args:
        allowed: of each group of ``model.shapes`` the units that may stay, the most first.
    """
    curves = []
    for column, name in enumerate(model.shapes.groups):
        widths = tuple(allowed[name])
        rows = np.repeat(model.shapes.units[None], len(widths), axis=0)
        rows[:, column] = widths
        curves.append(GroupCurve(name, widths, tuple(model.milliseconds(rows).tolist())))
    return tuple(sorted(curves, key=lambda curve: -curve.saved))
