"""Sparse learning: training that shrinks channels over whole groups, the least important most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgevision.pruning.graph import Group, Slot, find_groups
from edgevision.pruning.importance.base import Weighted, channel_axis
from edgevision.pruning.whole import example_input, ignored_names

_ALPHA = 4.0  # a group's least important channel shrinks 2^4 times as fast as its first


@dataclass(frozen=True)
class _Side:
    """One side of a layer: ``channels[i]`` along ``axis`` leaves with ``units[i]``."""

    layer: Any
    axis: int
    channels: Tensor
    units: Tensor

    def to(self, device: torch.device) -> _Side:
        return _Side(self.layer, self.axis, self.channels.to(device), self.units.to(device))


class GroupRegularizer:
    """Adds the gradient of DepGraph's group regularization to those of a network's weights.

    For every prunable group it is that of ``strength / 2 * sum_k gamma_k I_k^2`` over the channels
    k, where I_k is the norm of all weights that leave with channel k and gamma_k, taken as
    constant, is ``2^(4 (I_max - I_k) / (I_max - I_min))``: 1 to 16. From "DepGraph: Towards Any
    Structural Pruning" (Fang et al., CVPR 2023), section 3.3, with the norm in gamma_k as their
    code has it. It depends on the weights alone, so an interrupted training goes on as it was.

    For SGD: optimizers that scale gradients take most of the shrinkage away.

    Args:
        module: in eval mode; :meth:`add` follows it to another device.
        example_shape: input shape (1, C, H, W) for tracing.
        strength: comparable to a weight decay.
        ignored: layers of ``module`` whose outputs are not pruned, with all inside them.
        patterns: the same, by name or shell pattern.

    Raises:
        ModelError: the network cannot be traced, or a pattern matches no layer.
    """

    def __init__(
        self,
        module: nn.Module,
        example_shape: tuple[int, ...],
        strength: float,
        *,
        ignored: Sequence[nn.Module] = (),
        patterns: Sequence[str] = (),
    ) -> None:
        self.strength = strength
        names = ignored_names(module, ignored, patterns)
        graph = find_groups(module, example_input(module, example_shape), names)
        self._groups = [(len(group.units), _sides(group)) for group in graph.groups]

    @torch.no_grad()
    def add(self) -> None:
        """Add to ``.grad`` of the groups' weights; a weight without gradient stays."""
        for number, sides in self._groups:
            if not sides:
                continue
            device = sides[0].layer.weight.device
            if sides[0].channels.device != device:
                sides[:] = [side.to(device) for side in sides]
            squares = torch.zeros(number, device=device)
            for side in sides:
                squared = side.layer.weight.float().pow(2).movedim(side.axis, 0)
                sums = squared.flatten(1).sum(1) if squared.ndim > 1 else squared
                squares.index_add_(0, side.units, sums[side.channels])
            gamma = strengths(squares.sqrt())
            for side in sides:
                weight = side.layer.weight
                if weight.grad is None:
                    continue
                factor = torch.zeros(weight.shape[side.axis], device=device)
                factor[side.channels] = gamma[side.units]
                shape = [1] * weight.ndim
                shape[side.axis] = -1
                weight.grad.addcmul_(weight, factor.view(shape), value=self.strength)


def strengths(importance: Tensor) -> Tensor:
    """gamma_k from I_k: 1 for the most important channel, 16 for the least; 1 where all are equal.

    Args:
        importance: float32 (channels,), >= 0.
    """
    most, least = importance.max(), importance.min()
    spread = (most - least).clamp_min(torch.finfo(importance.dtype).tiny)
    share: Tensor = (most - importance) / spread
    return torch.exp2(_ALPHA * share)


def _sides(group: Group) -> list[_Side]:
    unit_of = np.full(group.channels, -1, dtype=np.int64)
    for number, unit in enumerate(group.units):
        unit_of[unit] = number
    found = (_side(slot, unit_of) for slot in group.slots if _has_weight(slot))
    return [side for side in found if len(side.units)]


def _has_weight(slot: Slot) -> bool:
    return isinstance(slot.module, Weighted) and getattr(slot.module, "weight", None) is not None


def _side(slot: Slot, unit_of: np.ndarray[Any, np.dtype[np.int64]]) -> _Side:
    axis = channel_axis(slot.module, slot.side)
    # Blocks of a grouped convolution share the places along this axis: each counts once.
    places = slot.channels % slot.module.weight.shape[axis]
    pairs = np.unique(np.stack([places, unit_of[slot.roots]]), axis=1)
    channels, units = torch.from_numpy(pairs[:, pairs[1] >= 0])
    return _Side(slot.module, axis, channels, units)
