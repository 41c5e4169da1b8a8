"""Layer-adaptive magnitude."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from edgevision.pruning.importance.base import Importance

if TYPE_CHECKING:
    from edgevision.pruning.graph import Group


class Lamp(Importance):
    """A channel's magnitude over the sum of the magnitudes not below it, within the group.

    The largest channel of each group scores 1, so a global ranking never empties a group. From
    "Layer-adaptive Sparsity for the Magnitude-based Pruning" (Lee et al., ICLR 2021), equation 1.
    """

    def _score(self, group: Group) -> torch.Tensor | None:
        scores = self.mean_over_layers(group, lambda weight: weight.abs().pow(self.config.norm))
        return None if scores is None else lamp(scores)


def lamp(scores: torch.Tensor) -> torch.Tensor:
    """Each score over the sum of the scores from it upwards; zeros stay zero."""
    ascending, order = scores.sort(stable=True)
    # Summed from the top: the difference of two large sums would lose the small scores.
    rest = ascending.flip(0).cumsum(0).flip(0)
    adapted = torch.where(rest > 0, ascending / rest, torch.zeros_like(rest))
    return torch.empty_like(scores).scatter_(0, order, adapted)
