"""Norm of the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from edgevision.pruning.importance.base import Importance, mean_one

if TYPE_CHECKING:
    from edgevision.pruning.graph import Group


class Magnitude(Importance):
    """Mean over the group's layers of the p-norm (to the power p) of a channel's weights.

    From "DepGraph: Towards Any Structural Pruning" (Fang et al., CVPR 2023), equation 4.
    """

    def _score(self, group: Group) -> torch.Tensor | None:
        scores = self.mean_over_layers(group, lambda weight: weight.abs().pow(self.config.norm))
        return None if scores is None else mean_one(scores)
