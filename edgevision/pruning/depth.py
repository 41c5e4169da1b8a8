"""Which blocks go before widths are chosen: those whose removal pays more than narrowing them.

All that is left is narrowed to the same time, so what a block pays is the loss that the others need
not lose for it. Losses of several removals do not simply add: they are measured together before
another one goes, and each has to win by a margin.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import nn

from edgevision.pruning.blocks import Block
from edgevision.pruning.config import PruneConfig
from edgevision.pruning.gradients import Batches, Loss
from edgevision.pruning.graph import Graph, find_groups
from edgevision.pruning.importance import IMPORTANCES
from edgevision.pruning.search import Float64, Ints, Options, search_widths
from edgevision.pruning.sensitivity import measured_losses, removal_losses
from edgevision.pruning.timed import TimeGoal
from edgevision.pruning.whole import copied, example_input, ignored_names
from edgevision.pruning.widths import Prunable, prunable

_TRIED = 4  # blocks that are weighed against narrowing at a time: a search for each
_MARGIN, _LEAST = 0.2, 0.01  # that a removal must save: of the predicted loss, and of loss itself
TimeIn = Callable[[Block, Ints], Float64]


@dataclass(frozen=True)
class BlockRow:
    """A block that was looked at.

    ``loss`` is what its removal alone adds, ``milliseconds`` what it takes when all is whole,
    ``gone`` whether it went.
    """

    name: str
    loss: float
    milliseconds: float
    gone: bool


@dataclass(frozen=True)
class DepthChoice:
    """Every block that was looked at, and the loss predicted without and with removals.

    The loss is what narrowing to the time adds, with what the removals add; None where no widths
    reach the time.
    """

    rows: tuple[BlockRow, ...]
    loss_before: float | None
    loss_after: float | None

    @property
    def gone(self) -> list[str]:
        """Names of the blocks that went."""
        return [row.name for row in self.rows if row.gone]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "blocks": [asdict(row) for row in self.rows],
            "gone": self.gone,
            "loss_before": self.loss_before,
            "loss_after": self.loss_after,
        }


def choose_blocks(
    module: nn.Module,
    blocks: Sequence[Block],
    goal: TimeGoal,
    time_in: TimeIn,
    *,
    example_shape: tuple[int, ...],
    config: PruneConfig,
    ignored: Sequence[nn.Module] = (),
    round_to: int = 1,
    batches: Batches | None = None,
    loss: Loss | None = None,
    progress: Callable[[str, int, int], None] = lambda phase, done, total: None,
) -> DepthChoice:
    """Those of ``blocks`` that are to go so that least is lost within the goal's time.

    Args:
        module: the whole network.
        blocks: of :func:`edgevision.pruning.blocks.find_blocks`.
        goal: of the whole network; nothing is measured for it.
        time_in: from a block and (B, groups) units kept, groups as ``goal`` has them, to the (B,)
            predicted milliseconds that the block takes.
        example_shape, config, ignored, round_to, batches, loss: as for
            :func:`edgevision.pruning.prune`.
        progress: called with (phase, done, total).

    Raises:
        ModelError, UsageError: as ``prune``.
    """
    work = copied(module).eval()
    example = example_input(work, example_shape)
    kept_whole = ignored_names(module, ignored, config.ignored_layers)
    graph = find_groups(work, example, kept_whole)
    units = {group.name: len(group.units) for group in graph.groups}
    whole = np.array([units[name] for name in goal.groups], dtype=np.int64)
    number = config.gradient_batches
    each = [[block.name] for block in blocks]
    alone = removal_losses(work, each, batches, loss, number, progress=progress)
    items = _scored(work, graph, goal, config, round_to, batches, loss)
    options = measured_losses(work, items, batches, loss, number, progress=progress)

    def narrowing(gone: Sequence[Block]) -> float:
        left = [
            (item.group.name, option)
            for item, option in zip(items, options, strict=True)
            if not any(_is_inside(item, block) for block in gone)
        ]
        names = [name for name, _ in left]
        if not left:  # there would be no widths to choose from
            return float("inf")

        def times(rows: Ints) -> Float64:
            kept = goal.filled(names, rows, units)
            found: Float64 = goal.milliseconds(kept)
            for block in gone:
                found = found - time_in(block, kept)
            return found

        return _loss_within([option for _, option in left], times, goal.limit_ms)

    def together(gone: Sequence[Block]) -> float:
        (found,) = removal_losses(work, [[block.name for block in gone]], batches, loss, number)
        return found

    taken = [float(time_in(block, whole[None])[0]) for block in blocks]
    gone, before, after = search_blocks(blocks, alone, taken, together, narrowing)
    rows = [
        BlockRow(block.name, own, milliseconds, block in gone)
        for block, own, milliseconds in zip(blocks, alone, taken, strict=True)
    ]
    return DepthChoice(tuple(rows), _finite(before), _finite(after))


def search_blocks(
    blocks: Sequence[Block],
    alone: Sequence[float],
    milliseconds: Sequence[float],
    together: Callable[[Sequence[Block]], float],
    narrowing: Callable[[Sequence[Block]], float],
) -> tuple[list[Block], float, float]:
    """Take the block out that saves most, again and again, as long as one wins by the margin.

    Those that lose least for their time are tried.

    Args:
        blocks: that may go; of two that overlap one at most does.
        alone: the loss that the removal of each adds.
        milliseconds: that each takes.
        together: the loss that the removal of several adds, measured.
        narrowing: the loss of the widths that fit the time without the blocks given, infinite
            where none do.

    Returns:
        The blocks, and the predicted loss before and after.
    """
    gone: list[Block] = []
    rates = [own / max(time, 1e-12) for own, time in zip(alone, milliseconds, strict=True)]
    order = sorted(range(len(blocks)), key=rates.__getitem__)
    left = {blocks[place]: alone[place] for place in order}
    lost = 0.0
    before = total = narrowing(gone)
    while True:
        most = min(total * (1.0 - _MARGIN), total - _LEAST)
        worth = [
            block
            for block, own in left.items()
            if lost + own < most and not any(block.overlaps(other) for other in gone)
        ]
        trials = {block: narrowing([*gone, block]) for block in worth[:_TRIED]}
        best = min(trials, key=lambda block: left[block] + trials[block], default=None)
        if best is None or lost + left[best] + trials[best] >= most:
            return gone, before, total
        del left[best]
        measured = together([*gone, best])
        if measured + trials[best] < most:
            gone.append(best)
            lost, total = measured, measured + trials[best]


def _scored(
    module: nn.Module,
    graph: Graph,
    goal: TimeGoal,
    config: PruneConfig,
    round_to: int,
    batches: Batches | None,
    loss: Loss | None,
) -> list[Prunable]:
    """The goal's groups with their units ranked, those that have a score."""
    importance = IMPORTANCES.get(config.importance)(config)
    groups = [group for group in graph.groups if group.name in goal.groups]
    found = []
    with importance.observing(module, groups, batches, loss):
        for group in groups:
            scores = importance.score(group)
            if scores is None:
                continue
            item = prunable(
                group,
                scores,
                round_to=round_to,
                max_ratio=config.max_ratio,
                original=len(group.units),
            )
            if item is not None:
                found.append(item)
    return found


def _is_inside(item: Prunable, block: Block) -> bool:
    """Whether all that the group narrows is in the block."""
    return all(slot.name.startswith(f"{block.name}.") for slot in item.group.slots)


def _loss_within(
    options: Sequence[Options], times: Callable[[Ints], Float64], limit: float
) -> float:
    found = search_widths(options, times, limit)
    if found is None:
        return float("inf")
    return sum(
        option.losses[option.widths.index(units)]
        for option, units in zip(options, found, strict=True)
    )


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
