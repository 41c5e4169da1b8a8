"""Widths within a time: what to reach, how it is predicted, and how the choice is confirmed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgevision.errors import ModelError
from edgevision.pruning.search import Float64, Ints, Options, Times, search_widths
from edgevision.pruning.widths import Prunable

log = logging.getLogger(__name__)

_CLOSE = 0.02  # a measured time this near to the goal will do
_TRIES = 4


@dataclass(frozen=True)
class TimeGoal:
    """The time that a network may take.

    Attributes:
        limit_ms: what it may take after the last step.
        groups: names of the groups that ``milliseconds`` takes, in its order.
        milliseconds: predicted, from (B, groups) units kept.
        measure: from the units that each group keeps to the time measured, None where the target
            is not at hand: then the prediction counts.
        chosen: widths by step, filled as they are chosen. Measured times differ from run to run,
            so whoever carries on an interrupted run gives those of the run before.
        or_narrowest: out of reach, take the narrowest choice instead of raising.
    """

    limit_ms: float
    groups: tuple[str, ...]
    milliseconds: Times
    measure: Callable[[Mapping[str, int]], float] | None = None
    chosen: MutableMapping[str, dict[str, int]] = field(default_factory=dict)
    or_narrowest: bool = False

    def of(self, kept: Mapping[str, int]) -> float:
        """Predicted milliseconds of one choice."""
        row = np.array([[kept[name] for name in self.groups]], dtype=np.int64)
        return float(self.milliseconds(row)[0])

    def filled(self, names: Sequence[str], rows: Ints, present: Mapping[str, int]) -> Ints:
        """(B, groups) units kept: (B, names) ``rows`` for ``names``, else what is ``present``."""
        whole = np.array([present[name] for name in self.groups], dtype=np.int64)
        kept = np.repeat(whole[None], len(rows), axis=0)
        kept[:, [self.groups.index(name) for name in names]] = rows
        return kept


def choose_within(
    goal: TimeGoal,
    limit_ms: float,
    candidates: Sequence[Prunable],
    options: Sequence[Options],
    present: Mapping[str, int],
) -> dict[str, int]:
    """The widths of ``candidates`` that lose least within ``limit_ms``.

    Where the time can be measured, the choice is, and the search repeated with a limit that makes
    up for the error of the prediction. A choice that is predicted to leave the network no better
    than a guess is warned of.

    Args:
        goal: prediction and measurement.
        limit_ms: of this step.
        candidates: groups that may be narrowed, ``options`` theirs.
        present: units of every group of ``goal`` now.

    Raises:
        ModelError: the narrowest choice takes longer, and that was not to be taken then.
    """
    choice = _chosen(goal, limit_ms, candidates, options, present)
    _tell_of_ruin(limit_ms, candidates, options, choice)
    return choice


def _chosen(
    goal: TimeGoal,
    limit_ms: float,
    candidates: Sequence[Prunable],
    options: Sequence[Options],
    present: Mapping[str, int],
) -> dict[str, int]:
    names = [item.group.name for item in candidates]

    def times(rows: Ints) -> Float64:
        return goal.milliseconds(goal.filled(names, rows, present))

    best: tuple[float, dict[str, int]] | None = None
    limit = limit_ms
    for _ in range(_TRIES):
        found = search_widths(options, times, limit)
        if found is None:
            break
        choice = dict(zip(names, found, strict=True))
        if goal.measure is None:
            return choice
        measured = goal.measure({**present, **choice})
        error = abs(measured / limit_ms - 1.0)
        if best is None or error < best[0]:
            best = error, choice
        if error <= _CLOSE:
            break
        limit *= limit_ms / measured
    if best is None and goal.or_narrowest:
        return {item.group.name: item.allowed[-1] for item in candidates}
    if best is None:
        least = float(times(np.array([[item.allowed[-1] for item in candidates]]))[0])
        raise ModelError(
            f"Expected at most {limit_ms:.3g} ms, but the narrowest network that may be chosen "
            f"is predicted to take {least:.3g} ms.",
            hint="Ask for less, raise max_ratio, or ignore fewer layers.",
        )
    return best[1]


def _tell_of_ruin(
    limit_ms: float,
    candidates: Sequence[Prunable],
    options: Sequence[Options],
    choice: Mapping[str, int],
) -> None:
    """Warn where the predicted loss is beyond that of a guess, whatever the whole network's is.

    A multiple of the whole network's loss would say nothing: on its training data it is near zero.
    Beyond a guess, what was learnt is gone, and fine-tuning begins anew with a narrow network.
    """
    scale = next((option.scale for option in options if option.scale is not None), None)
    if scale is None:
        return
    added = sum(
        option.losses[option.widths.index(choice[item.group.name])]
        for item, option in zip(candidates, options, strict=True)
    )
    if scale.whole < scale.blind < scale.whole + added:
        log.warning(
            "Narrowed to %.3g ms, the network's loss is predicted to rise from %.3g to %.3g before "
            "fine-tuning, and a guess has %.3g: it may lose most of what it learnt. Ask for less "
            "speed, or give it more epochs (prune.fine_tune.epochs) or rounds (prune.steps).",
            limit_ms,
            scale.whole,
            scale.whole + added,
            scale.blind,
        )
