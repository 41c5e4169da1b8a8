"""Convolutions of one input channel a group but several outputs: they lose whole groups.

torch-pruning takes their two sides for independent, which they are only where each group has
channels to spare.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from edgevision.lazy import require


def is_by_groups(layer: object) -> bool:
    """Whether each input channel of ``layer`` makes several outputs of its own."""
    return (
        isinstance(layer, nn.modules.conv._ConvNd)
        and not layer.transposed
        and 1 < layer.groups == layer.in_channels < layer.out_channels
    )


def tie_sides(graph: Any) -> None:
    """Let groups leave such layers as channels leave a depthwise convolution, in a graph as traced.

    A channel of the layer's node is a group from then on; its readers see the group's outputs.
    """
    tp = require("torch_pruning")
    depthwise = graph.REGISTERED_PRUNERS[tp.ops.OPTYPE.DEPTHWISE_CONV].prune_out_channels
    for node in graph.module2node.values():
        for dep in node.dependencies:
            if is_by_groups(dep.source.module):
                if graph.is_out_channel_pruning_fn(dep.trigger):
                    dep.index_mapping[0] = _Outputs(_multiplier(dep.source.module))
                dep.trigger = depthwise
            if is_by_groups(dep.target.module):
                if graph.is_out_channel_pruning_fn(dep.handler):
                    dep.index_mapping.append(_Groups(_multiplier(dep.target.module)))
                dep.handler = depthwise


def outputs_of(layer: Any, groups: list[int]) -> list[int]:
    """Output channels of ``groups`` of the layer."""
    number = _multiplier(layer)
    return [group * number + place for group in groups for place in range(number)]


def _multiplier(layer: Any) -> int:
    return int(layer.out_channels // layer.groups)


@dataclass(frozen=True)
class _Outputs:
    """From groups to all their output channels."""

    number: int

    def __call__(self, indices: list[Any]) -> list[Any]:
        return [
            index._replace(idx=index.idx * self.number + place)
            for index in indices
            for place in range(self.number)
        ]


@dataclass(frozen=True)
class _Groups:
    """From output channels to their groups, each group once."""

    number: int

    def __call__(self, indices: list[Any]) -> list[Any]:
        first = {index.idx // self.number: index for index in reversed(indices)}
        return [first[group]._replace(idx=group) for group in sorted(first)]
