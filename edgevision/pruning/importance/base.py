"""The contract of a channel score, and the sum over the layers of a group."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import nn

from edgevision.errors import ModelError

if TYPE_CHECKING:
    from edgevision.pruning.config import PruneConfig
    from edgevision.pruning.gradients import Batches, Loss
    from edgevision.pruning.graph import Group

Normed = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
Weighted = (nn.modules.conv._ConvNd, nn.Linear, *Normed)


class Importance(ABC):
    """Scores the channels of groups of layers that are pruned together.

    One object scores all groups of a network once; weights must not change meanwhile. Scores of
    different groups must be comparable: a group's mean score is 1, except where a subclass says
    otherwise.
    """

    def __init__(self, config: PruneConfig) -> None:
        self.config = config
        # Layers of a concatenation belong to many groups; their weights are summed once.
        self._sums: dict[tuple[str, int], torch.Tensor] = {}

    def observing(
        self,
        module: nn.Module,
        groups: Sequence[Group],
        batches: Batches | None,
        loss: Loss | None,
    ) -> AbstractContextManager[None]:
        """The block in which groups are scored; where the score rests on data, it sees them first.

        Args:
            module: the network of the groups, in eval mode.

        Raises:
            UsageError: the score needs ``batches`` or ``loss``, and they are missing.
            ModelError: there is no batch, or the loss is not finite.
        """
        return nullcontext()

    def score(self, group: Group) -> torch.Tensor | None:
        """One score >= 0 per channel of the group's root layer; None if the score has no basis.

        Returns:
            float32 (channels,) on the CPU.

        Raises:
            ModelError: a score is NaN or infinite.
        """
        with torch.no_grad():
            scores = self._score(group)
        if scores is None:
            return None
        if not bool(torch.isfinite(scores).all()):
            raise ModelError(
                f"The {self.config.importance} importance of '{group.name}' is NaN or infinite.",
                hint="Check the model's weights, and for scores from data the loss, for NaN.",
            )
        return scores

    @abstractmethod
    def _score(self, group: Group) -> torch.Tensor | None:
        """The work behind :meth:`score`, without gradients."""

    def mean_over_layers(
        self,
        group: Group,
        saliency: Callable[[nn.Parameter], torch.Tensor],
        layers: tuple[type[nn.Module], ...] = Weighted,
    ) -> torch.Tensor | None:
        """Saliency of each channel, summed over a layer's weights and averaged over the layers.

        Same as torch-pruning's group reduction "mean", but depthwise weights count as well, and
        no layer has to cover every channel of the root (a split covers a part, a flatten each of
        them several times).

        Args:
            saliency: from a weight to a tensor >= 0 of the same shape; the same in every call.
            layers: only weights of these layers count.

        Returns:
            float32 (channels of the root,) on the CPU; None where the group has no such weights.
        """
        total = torch.zeros(group.channels)
        found = 0
        for slot in group.slots:
            weight = getattr(slot.module, "weight", None)
            if not isinstance(slot.module, layers) or weight is None:
                continue
            axis = channel_axis(slot.module, slot.side)
            if (slot.name, axis) not in self._sums:
                values = saliency(weight).float().movedim(axis, 0)
                self._sums[slot.name, axis] = values.reshape(len(values), -1).sum(1).cpu()
            local = self._sums[slot.name, axis]
            # A grouped convolution holds the weights of one block along this axis, so that its
            # channels share them.
            index = torch.as_tensor(slot.channels) % len(local)
            total.index_add_(0, torch.as_tensor(slot.roots), local[index])
            found += 1
        return total / found if found else None


def mean_one(scores: torch.Tensor) -> torch.Tensor:
    """Scale ``scores`` to a mean of 1; a group of zeros stays zero (it is pruned first)."""
    mean = scores.mean()
    return scores / mean if float(mean) != 0.0 else scores


def channel_axis(module: nn.Module, side: str) -> int:
    """Axis of a layer's weight that holds the channels of its ``side``, "in", "out" or "both"."""
    if isinstance(module, Normed):
        return -1
    transposed = bool(getattr(module, "transposed", False))
    return int((side == "in") != transposed)
