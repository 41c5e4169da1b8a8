"""How many channels each group keeps: the one place that decides widths.

A choice is a mapping from group name to the units it keeps. The pruner applies any such mapping,
so another way to choose (from measured latency, say) replaces :func:`choose_widths` alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from edgevision.errors import ModelError
from edgevision.pruning.by_groups import is_by_groups
from edgevision.pruning.graph import Group, Ints

_WEIGHTED = (nn.modules.conv._ConvNd, nn.Linear)


@dataclass(frozen=True)
class Prunable:
    """A group with its scores: which units leave first, and which widths it may have.

    ``order`` lists the units from the least important on; ``scores`` are theirs, in that order.
    ``allowed`` holds the numbers of units that may stay, descending, the present one first.
    ``original`` is the number of units before the first step.
    """

    group: Group
    order: Ints
    scores: np.ndarray[tuple[int], np.dtype[np.float64]]
    allowed: tuple[int, ...]
    original: int


def prunable(
    group: Group, scores: torch.Tensor, *, round_to: int, max_ratio: float, original: int
) -> Prunable | None:
    """Order the units of ``group`` and find its allowed widths.

    A width is allowed if at most ``max_ratio`` of the ``original`` units is gone, and if every
    convolution and linear layer that the group narrows loses a multiple of ``round_to`` channels,
    or, where its width is no such multiple, keeps one of the group's channels. Where no width does
    both, as with a layer put together from uneven parts, all are to keep a multiple of them.

    Returns:
        None if no width below the present one is allowed.
    """
    per_unit = np.array([float(scores[torch.as_tensor(unit)].mean()) for unit in group.units])
    order = np.argsort(per_unit, kind="stable")
    units = len(group.units)
    least = max(math.ceil(original * (1.0 - max_ratio) - 1e-9), 1)
    counts, below = _counts(group), range(least, units)
    smaller = [kept for kept in below if _keeps_multiples(counts, units, kept, round_to)]
    smaller = smaller or [
        kept for kept in below if all(kept * channels % round_to == 0 for channels, _ in counts)
    ]
    if not smaller:
        return None
    return Prunable(group, order, per_unit[order], (units, *reversed(smaller)), original)


def _counts(group: Group) -> set[tuple[int, int]]:
    """For each layer that must keep to multiples: channels that a unit takes, and its width."""
    found = set()
    for slot in group.slots:
        channels = int(group.layer_units(slot)[0])  # the same for every unit
        if is_by_groups(slot.module):
            groups = slot.module.groups
            found.add((channels * groups // slot.width, groups))
        elif isinstance(slot.module, _WEIGHTED):
            found.add((channels, slot.width))
    return found


def _keeps_multiples(counts: set[tuple[int, int]], units: int, kept: int, round_to: int) -> bool:
    """Whether widths that are multiples stay so, and the group's share of others becomes one."""
    return all(
        (kept if width % round_to else units - kept) * channels % round_to == 0
        for channels, width in counts
    )


def choose_widths(
    groups: Sequence[Prunable],
    reached: Callable[[Mapping[str, int]], bool],
    *,
    global_ranking: bool,
) -> dict[str, int]:
    """Narrow the groups move by move until ``reached`` says so.

    A move takes one group to its next allowed width. Moves come in the order of the share of
    channels that is gone after them (all groups equally), or with ``global_ranking`` of the mean
    importance of the units that leave. After the first choice that reaches the goal, groups get
    back what the goal does not need, those ranked highest first, so it is overshot by less than
    the smallest move that was made.

    Args:
        groups: the groups with their allowed widths.
        reached: whether a choice meets the goal; once true it stays true for narrower choices.

    Raises:
        ModelError: the narrowest choice does not reach the goal.
    """
    moves: list[tuple[float, int, int, int]] = []
    for position, item in enumerate(groups):
        key = -math.inf
        for move, (before, after) in enumerate(zip(item.allowed, item.allowed[1:], strict=False)):
            units = len(item.group.units)
            if global_ranking:
                rank = float(item.scores[units - before : units - after].mean())
            else:
                rank = 1.0 - after / item.original
            key = max(key, rank)  # a group's own moves stay in order
            moves.append((key, move, position, after))
    moves.sort()

    def after_moves(number: int) -> dict[str, int]:
        kept = {item.group.name: item.allowed[0] for item in groups}
        for _, _, position, after in moves[:number]:
            kept[groups[position].group.name] = after
        return kept

    if not reached(after_moves(len(moves))):
        raise ModelError("The pruning target cannot be reached.")
    low, high = 0, len(moves)
    while low < high:
        middle = (low + high) // 2
        if reached(after_moves(middle)):
            high = middle
        else:
            low = middle + 1
    kept = after_moves(low)
    for _, _, position, after in reversed(moves[:low]):
        item = groups[position]
        if kept[item.group.name] == after:  # a later move of this group may have stayed
            wider = {**kept, item.group.name: item.allowed[item.allowed.index(after) - 1]}
            kept = wider if reached(wider) else kept
    return kept


def even_widths(groups: Sequence[Prunable], ratio: float) -> dict[str, int]:
    """Take the share ``ratio`` of its original channels from each group, to the nearest width."""
    return {
        item.group.name: min(
            item.allowed, key=lambda kept: (abs(item.original * (1.0 - ratio) - kept), kept)
        )
        for item in groups
    }
