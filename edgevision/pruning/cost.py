"""MACs and parameters of a network as a function of the units that its groups keep."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from edgevision.pruning.graph import Group, Ints
from edgevision.pruning.macs import Count


@dataclass(frozen=True)
class _Narrowing:
    """Channels that one group takes from one side of a layer: ``lost[k]`` after ``k`` units."""

    group: str
    width: int
    lost: Ints


class Width(NamedTuple):
    """Channels (kept, of) on either side of a layer; None for a side that no group narrows."""

    outputs: tuple[int, int] | None
    inputs: tuple[int, int] | None


class WidthCost:
    """Predicts MACs, parameters and channels from widths, without pruning anything.

    Exact where MACs are those of convolutions and linear layers; the matrix products inside
    attention, which have no layer, count as constant.

    Args:
        groups: the groups that may be narrowed.
        orders: for each group the order in which its units leave.
        count: MACs and parameters of the network as it is.
    """

    def __init__(self, groups: Sequence[Group], orders: Mapping[str, Ints], count: Count) -> None:
        self._count = count
        self._modules: dict[str, Any] = {}
        self._in: dict[str, list[_Narrowing]] = defaultdict(list)
        self._out: dict[str, list[_Narrowing]] = defaultdict(list)
        self._units = {group.name: len(group.units) for group in groups}
        self._unit_channels = {group.name: len(group.units[0]) for group in groups}
        for group in groups:
            for slot in group.slots:
                lost = np.concatenate([[0], group.layer_units(slot)[orders[group.name]].cumsum()])
                side = self._in if slot.side == "in" else self._out
                side[slot.name].append(_Narrowing(group.name, slot.width, lost))
                self._modules[slot.name] = slot.module

    def channels(self, kept: Mapping[str, int]) -> int:
        """Output channels of the groups' root layers that stay."""
        return sum(kept[name] * width for name, width in self._unit_channels.items())

    def macs(self, kept: Mapping[str, int]) -> int:
        """MACs of one image when group ``name`` keeps ``kept[name]`` of its units."""
        total = self._count.macs
        for name in self._modules:
            before = self._count.layer_macs.get(name, 0)
            if before:
                outputs, inputs = self._share(name, kept)
                total -= before - round(before * outputs * inputs)
        return total

    def params(self, kept: Mapping[str, int]) -> int:
        """Parameters when group ``name`` keeps ``kept[name]`` of its units."""
        total = self._count.params
        for name, module in self._modules.items():
            outputs, inputs = self._share(name, kept)
            if isinstance(module, nn.Parameter):
                before, after = module.numel(), module.numel() * outputs
            else:
                before = sum(p.numel() for p in module.parameters(recurse=False))
                bias = getattr(module, "bias", None)
                biases = bias.numel() if isinstance(bias, nn.Parameter) else 0
                after = (before - biases) * outputs * inputs + biases * outputs
            total -= before - round(after)
        return total

    def layer_widths(self, kept: Mapping[str, int]) -> dict[str, Width]:
        """Widths of every layer and plain parameter that the groups reach, by name."""
        return {
            name: Width(
                self._channels(self._out.get(name, []), kept),
                self._channels(self._in.get(name, []), kept),
            )
            for name in self._modules
        }

    def _share(self, name: str, kept: Mapping[str, int]) -> tuple[float, float]:
        """Shares of the layer's output and input channels that stay."""
        return (
            self._side(self._out.get(name, []), kept),
            self._side(self._in.get(name, []), kept),
        )

    def _side(self, narrowings: list[_Narrowing], kept: Mapping[str, int]) -> float:
        found = self._channels(narrowings, kept)
        return 1.0 if found is None else found[0] / found[1]

    def _channels(
        self, narrowings: list[_Narrowing], kept: Mapping[str, int]
    ) -> tuple[int, int] | None:
        if not narrowings:
            return None
        lost = sum(
            int(narrowing.lost[self._units[narrowing.group] - kept[narrowing.group]])
            for narrowing in narrowings
        )
        return narrowings[0].width - lost, narrowings[0].width
