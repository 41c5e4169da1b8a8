"""Which groups of a network may be narrowed, and to which widths, before anything is scored."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from edgevision.pruning.config import PruneConfig
from edgevision.pruning.cost import WidthCost
from edgevision.pruning.graph import Graph, find_groups, remove
from edgevision.pruning.whole import copied, counted, example_input, ignored_names
from edgevision.pruning.widths import prunable


@dataclass(frozen=True)
class AllowedWidths:
    """What a network can become.

    Attributes:
        module: a copy of the network, whole.
        graph: its groups.
        allowed: group → units that may stay, the most first.
        cost: of the network at such widths.
    """

    module: nn.Module
    graph: Graph
    allowed: Mapping[str, tuple[int, ...]]
    cost: WidthCost

    @property
    def bounds(self) -> dict[str, tuple[int, int]]:
        """Group → (all its units, the fewest that may stay)."""
        return {name: (widths[0], widths[-1]) for name, widths in self.allowed.items()}

    def narrowed(self, kept: Mapping[str, int]) -> nn.Module:
        """A copy with so many units of each group; which ones leave is of no account.

        Raises:
            ModelError: nothing would be left of a layer.
        """
        removals: dict[str, list[int]] = {}
        for group in self.graph.groups:
            gone = group.units[: len(group.units) - kept.get(group.name, len(group.units))]
            channels = [int(channel) for unit in gone for channel in unit]
            if channels:
                removals.setdefault(group.root, []).extend(channels)
        narrow = copy.deepcopy(self.module)
        remove(narrow, self.graph, removals)
        return narrow


def allowed_widths(
    module: nn.Module,
    *,
    example_shape: tuple[int, ...],
    config: PruneConfig,
    ignored: Sequence[nn.Module] = (),
    round_to: int = 1,
) -> AllowedWidths:
    """The groups of ``module`` that may be narrowed, and to which widths.

    The groups and their names are those that :func:`edgevision.pruning.prune` finds with the same
    arguments.

    Raises:
        ModelError: as ``prune``.
    """
    work = copied(module).eval()
    example = example_input(work, example_shape)
    kept_whole = ignored_names(module, ignored, config.ignored_layers)
    graph = find_groups(work, example, kept_whole)
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
    return AllowedWidths(work, graph, {item.group.name: item.allowed for item in items}, cost)
