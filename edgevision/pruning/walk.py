"""The walk over torch-pruning's dependencies: what leaves with the channels of one layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn


@dataclass(frozen=True)
class Reached:
    """Channels of one side of ``node`` that leave: channel → the channel of the root it goes with.

    ``handler`` is torch-pruning's function for that side.
    """

    node: Any
    handler: Any
    roots: dict[int, int]


class LostError(Exception):
    """Channels were counted beyond what any layer has: the graph went wrong, maybe in a circle."""


class _Index(NamedTuple):
    """A channel ``idx`` of some layer that leaves with channel ``root_idx`` of the root."""

    idx: int
    root_idx: int


def reached_from(graph: Any, root: nn.Module) -> tuple[list[Reached], list[tuple[int, int]]]:
    """All that leaves with the output channels of ``root``, the root first.

    Unlike torch-pruning's own walk, this one sees each channel of a layer once, so that it ends
    soon in networks where many paths meet, and it tells of what met there.

    Returns:
        What was reached, and pairs of the root's own channels that reach one channel of a layer,
        as in a split that is added up: they leave together.

    Raises:
        LostError: the graph cannot be right.
    """
    pruner = graph.get_pruner_of_module(root)
    channels = range(pruner.get_out_channels(root))
    start = graph.module2node[root], pruner.prune_out_channels
    seen: dict[tuple[Any, Any], dict[int, int]] = {start: {c: c for c in channels}}
    pairs: set[tuple[int, int]] = set()
    limit = 2 * max(_width(layer) for layer in graph.module2node)
    stack = [(*start, [_Index(c, c) for c in channels])]
    while stack:
        node, pruning, indices = stack.pop()
        for dep in node.dependencies:
            if not dep.is_triggered_by(pruning):
                continue
            moved = indices
            for mapping in dep.index_mapping:
                if mapping is not None:
                    moved = mapping(moved)
            known = seen.setdefault((dep.target, dep.handler), {})
            fresh = []
            for index in moved:
                if index.idx not in known:
                    known[index.idx] = index.root_idx
                    if not 0 <= index.idx < limit:
                        raise LostError
                    fresh.append(index)
                elif known[index.idx] != index.root_idx:
                    pairs.add((known[index.idx], index.root_idx))
            if fresh:
                stack.append((dep.target, dep.handler, fresh))
    reached = [Reached(node, handler, roots) for (node, handler), roots in seen.items() if roots]
    return reached, sorted(pairs)


def _width(layer: Any) -> int:
    """The most channels that a layer with weights has on a side, else 0."""
    names = ("in_channels", "out_channels", "in_features", "out_features")
    return max(int(getattr(layer, name, 0)) for name in names)
