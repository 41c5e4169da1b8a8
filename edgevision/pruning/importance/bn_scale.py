"""Size of the BatchNorm scale."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from edgevision.pruning.importance.base import Importance, mean_one

if TYPE_CHECKING:
    from edgevision.pruning.graph import Group


class BnScale(Importance):
    """Mean of |gamma| over the BatchNorm layers of the group; no basis where there is none.

    From "Learning Efficient Convolutional Networks through Network Slimming" (Liu et al.,
    ICCV 2017).
    """

    def _score(self, group: Group) -> torch.Tensor | None:
        scores = self.mean_over_layers(
            group, lambda weight: weight.abs(), layers=(nn.modules.batchnorm._BatchNorm,)
        )
        return None if scores is None else mean_one(scores)
