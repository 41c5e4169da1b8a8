"""What to prune and by how much, as a recipe can say it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

TIMED = ("speedup", "latency_ms")
TARGETS = ("macs", "params", "pruning_ratio", *TIMED)


def asks_for_time(fields: Mapping[str, Any]) -> bool:
    """Whether the fields of a configuration, as a recipe gives them, name a time to prune to."""
    return any(fields.get(name) is not None for name in TIMED)


Fraction = Annotated[float, Field(gt=0.0, lt=1.0)]


class PruneConfig(BaseModel):
    """Structured pruning: the score of a channel, one target, and its limits.

    Every fraction is the fraction removed. Exactly one of ``macs``, ``params``,
    ``pruning_ratio``, ``speedup`` and ``latency_ms`` is given.

    Example:
        >>> PruneConfig(macs=0.5, importance="taylor", steps=3)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    importance: str = Field("magnitude", description="How channels are scored; see IMPORTANCES.")
    macs: Fraction | None = Field(None, description="Fraction of the MACs to remove.")
    params: Fraction | None = Field(None, description="Fraction of the parameters to remove.")
    pruning_ratio: Fraction | None = Field(None, description="Fraction of channels to remove.")
    speedup: float | None = Field(
        None, gt=1.0, le=1000.0, description="Times FP32's speed on the target, measured."
    )
    latency_ms: float | None = Field(
        None, gt=0.0, description="Median milliseconds on the target, measured."
    )
    global_ranking: bool = Field(
        False, description="Rank the channels of all groups together, not within each group."
    )
    sparse_epochs: int = Field(
        0, ge=0, description="Epochs of sparse learning before the first round; 0 for none."
    )
    sparse_strength: float = Field(
        5e-4, gt=0.0, le=1.0, description="Shrinkage of weights during sparse learning."
    )
    steps: int = Field(1, ge=1, le=100, description="Prune in this many rounds.")
    most_cycles: int = Field(
        2,
        ge=1,
        le=20,
        description="Trainings after the last round, at most; another one follows while the "
        "accuracy misses the budget.",
    )
    max_ratio: float = Field(
        0.9, gt=0.0, le=1.0, description="Most that any one group may lose of its channels."
    )
    depth: bool = Field(
        False, description="Remove whole blocks too where that loses less; for a time only."
    )
    ignored_layers: tuple[str, ...] = Field(
        (), description="Names or shell patterns of layers whose outputs stay whole."
    )
    norm: Literal[1, 2] = Field(2, description="Degree of the norm for magnitude and LAMP scores.")
    gradient_batches: int = Field(
        8, ge=1, description="Batches that scores from training data see."
    )
    seed: int = Field(0, ge=0, description="Seed of random scores.")

    @model_validator(mode="after")
    def _check(self) -> PruneConfig:
        from edgevision.errors import unknown_name
        from edgevision.pruning.importance import IMPORTANCES

        if self.importance not in IMPORTANCES:
            raise ValueError(unknown_name("importance", self.importance, IMPORTANCES))
        given = [name for name in TARGETS if getattr(self, name) is not None]
        if len(given) != 1:
            got = " and ".join(given) or "none"
            raise ValueError(
                f"expected exactly one target of {', '.join(TARGETS[:-1])} and {TARGETS[-1]}, "
                f"got {got}; for example macs=0.5 removes half of the MACs"
            )
        if self.depth and given[0] not in TIMED:
            raise ValueError(
                f"depth goes with {' or '.join(TIMED)}: what a block pays is measured in time; "
                f"got {given[0]}"
            )
        if self.pruning_ratio is not None and self.pruning_ratio > self.max_ratio:
            raise ValueError(
                f"pruning_ratio {self.pruning_ratio} is above max_ratio {self.max_ratio}; "
                "raise max_ratio or lower pruning_ratio"
            )
        return self

    @property
    def target(self) -> tuple[str, float]:
        """The one target that is given: its name and the value asked for."""
        found = {name: getattr(self, name) for name in TARGETS}
        return next((name, float(value)) for name, value in found.items() if value is not None)

    @property
    def is_timed(self) -> bool:
        """Whether the target is a time, which has to be measured."""
        return self.target[0] in TIMED
