"""Which groups of a network may be narrowed, and to which widths, before anything is scored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from edgevision.pruning.config import PruneConfig
from edgevision.pruning.cost import WidthCost
from edgevision.pruning.graph import find_groups
from edgevision.pruning.whole import copied, counted, example_input, ignored_names
from edgevision.pruning.widths import prunable


def allowed_widths(
    module: nn.Module,
    *,
    example_shape: tuple[int, ...],
    config: PruneConfig,
    ignored: Sequence[nn.Module] = (),
    round_to: int = 1,
) -> tuple[WidthCost, dict[str, tuple[int, ...]]]:
    """Group → units that may stay, the most first; and what the network costs at such widths.

    The groups and their names are those that :func:`edgevision.pruning.prune` finds with the same
    arguments.

    Raises:
        ModelError: as ``prune``.
    """
    work = copied(module).eval()
    example = example_input(work, example_shape)
    kept_whole = ignored_names(module, ignored, config.ignored_layers)
    graph = find_groups(work, example, kept_whole, attributes=not config.is_timed)
    found = [
        prunable(
            group,
            torch.ones(group.channels),
            round_to=round_to,
            max_ratio=config.max_ratio,
            original=len(group.units),
        )
        for group in graph.groups
    ]
    items = [item for item in found if item is not None]
    orders = {item.group.name: np.arange(len(item.group.units)) for item in items}
    cost = WidthCost([item.group for item in items], orders, counted(work, example))
    return cost, {item.group.name: item.allowed for item in items}
