"""What ``front.json`` holds: bundles of one network from accurate to fast, measured together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from edgevision.benchmark.report_schema import ComparisonSection

Kind = Literal["FP32", "INT8 only", "pruned + INT8", "pruned FP32"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FrontRow(_Model):
    """FP32 or one point of the front.

    Attributes:
        name: ``FP32``, or the folder of the point's bundle, e.g. ``front-2``.
        kind: of ``artifact``; a pruned network ships in float where INT8 misses the budget.
        artifact: the measured file, as the bundle names it.
        asked: times FP32's speed that its widths were chosen for; None where nothing was pruned.
        accuracy, drop: in percent and percentage points, over the whole validation split.
        latency_p50_ms: batch 1, measured interleaved with all the other rows.
        speedup, low, high: times FP32's speed, with its 95 % bootstrap interval.
        macs, bytes: of one image, and of ``artifact``; ``macs`` None where it was not counted.
        reached: whether it is as fast as it was made for, give or take what measuring leaves open.
        widths: layer → output channels before and after, of the layers that were narrowed.
        within_budget: whether ``drop`` is one that was allowed.
        passed: the verdict of the bundle.
        dominated: another row is at least as accurate and as fast, and better in one of them.
    """

    name: str
    kind: Kind
    artifact: str
    asked: float | None = None
    accuracy: float
    drop: float
    latency_p50_ms: float
    speedup: float
    low: float
    high: float
    steady: bool
    macs: int | None = None
    bytes: int
    widths: dict[str, tuple[int, int]] = Field(default_factory=dict)
    reached: bool = True
    within_budget: bool
    passed: bool = True
    dominated: bool = False

    @property
    def note(self) -> str:
        """What keeps this row from being a plain offer; empty where nothing does."""
        found = []
        if not self.within_budget:
            found.append("beyond the budget")
        if not self.reached:
            found.append("slower than asked")
        if not self.passed and self.within_budget:
            found.append("verdict not passed")
        if self.dominated:
            found.append("dominated")
        if not self.steady:
            found.append("measured on a busy machine")
        return ", ".join(found)


class Front(_Model):
    """The whole front; ``rows`` hold FP32 first, then the points from accurate to fast.

    Attributes:
        budget: percentage points that may be lost, as the recipe says.
        fastest_within: name of the fastest point that keeps it and passed, None where none did.
        latency: the one interleaved measurement of all rows.
    """

    schema_version: Literal[1] = 1
    model: str
    data: str
    target: str
    metric: str
    images: int
    budget: float
    rows: tuple[FrontRow, ...]
    fastest_within: str | None
    latency: ComparisonSection

    @property
    def points(self) -> tuple[FrontRow, ...]:
        """All rows but FP32."""
        return self.rows[1:]

    def to_bytes(self) -> bytes:
        """UTF-8 JSON, keys in the order of the fields."""
        text = json.dumps(self.model_dump(mode="json"), indent=1, allow_nan=False)
        return text.encode() + b"\n"


def marked(rows: Sequence[FrontRow]) -> tuple[FrontRow, ...]:
    """``rows`` with ``dominated`` set."""

    def beats(other: FrontRow, row: FrontRow) -> bool:
        theirs, own = ((r.accuracy, -r.latency_p50_ms) for r in (other, row))
        return theirs != own and all(a >= b for a, b in zip(theirs, own, strict=True))

    return tuple(
        row.model_copy(update={"dominated": any(beats(other, row) for other in rows)})
        for row in rows
    )


def fastest_within(points: Sequence[FrontRow]) -> str | None:
    """Name of the fastest point that keeps the budget and whose bundle passed, None for none."""
    within = [row for row in points if row.within_budget and row.passed]
    return min(within, key=lambda row: row.latency_p50_ms).name if within else None
