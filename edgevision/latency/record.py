"""Times of a network at many widths as they are written down: one form for every command."""

from __future__ import annotations

from datetime import datetime, timezone
from math import inf
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator

from edgevision.latency.model import LatencyModel, fit_latency
from edgevision.latency.shapes import Float64, Ints, WidthShapes


class WidthTimes(BaseModel):
    """One session of interleaved measurements of a network at many widths.

    Attributes:
        groups: names of the network's groups.
        allowed: of each group the units that may stay, the most first.
        kept: (networks, groups) units kept; the whole network first.
        milliseconds: (networks,) the least of each.
        precision: ``int8`` or ``fp32``.
        backend: its name and version.
        device: processor or GPU.
        threads: None for the backend's own choice.
        seconds: that were measured altogether.
        load: one-minute load average when it began; other work makes times longer.
        measured: when, ISO 8601, UTC.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    groups: tuple[str, ...]
    allowed: tuple[tuple[int, ...], ...]
    kept: tuple[tuple[int, ...], ...]
    milliseconds: tuple[float, ...]
    precision: str
    backend: str
    device: str
    threads: int | None
    seconds: float
    load: float | None
    measured: str

    @model_validator(mode="after")
    def _fits(self) -> WidthTimes:
        groups = len(self.groups)
        if len(self.allowed) != groups or any(len(row) != groups for row in self.kept):
            raise ValueError(f"expected {groups} groups in allowed and in each row of kept")
        if len(self.milliseconds) != len(self.kept):
            raise ValueError(f"expected {len(self.kept)} times, got {len(self.milliseconds)}")
        if not all(0 < time < inf for time in self.milliseconds):
            raise ValueError("expected times above zero")
        for row in self.kept:
            for name, units, allowed in zip(self.groups, row, self.allowed, strict=True):
                if units not in allowed:
                    raise ValueError(f"expected one of {allowed} units in '{name}', got {units}")
        return self

    @property
    def rows(self) -> Ints:
        """int64 (networks, groups): ``kept``."""
        return np.array(self.kept, dtype=np.int64).reshape(len(self.kept), len(self.groups))

    @property
    def times(self) -> Float64:
        """float64 (networks,): ``milliseconds``."""
        return np.array(self.milliseconds)

    def fit(self, shapes: WidthShapes) -> LatencyModel:
        """The model of these times.

        Raises:
            ModelError: as :func:`edgevision.latency.fit_latency`.
        """
        return fit_latency(shapes, self.rows, self.times)

    def with_errors(self, model: LatencyModel) -> dict[str, Any]:
        """As JSON values, with what the fit to them says of itself."""
        return {
            **self.model_dump(mode="json"),
            "tile": model.tile,
            "error": model.error,
            "worst_error": model.worst,
        }


def now() -> str:
    """This moment as the records have it, e.g. ``2026-01-31T12:00:00+00:00``."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
