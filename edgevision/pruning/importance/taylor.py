"""First-order Taylor expansion of the loss."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch
from torch import nn

from edgevision.pruning.gradients import Batches, Loss, accumulated_gradients
from edgevision.pruning.importance.base import Importance, mean_one

if TYPE_CHECKING:
    from edgevision.pruning.graph import Group


class Taylor(Importance):
    """Mean over the group's layers of sum |weight * gradient| of a channel.

    From "Importance Estimation for Neural Network Pruning" (Molchanov et al., CVPR 2019),
    summed over the group as in DepGraph (Fang et al., CVPR 2023).
    """

    def observing(
        self,
        module: nn.Module,
        groups: Sequence[Group],
        batches: Batches | None,
        loss: Loss | None,
    ) -> AbstractContextManager[None]:
        return accumulated_gradients(module, batches, loss, self.config.gradient_batches)

    def _score(self, group: Group) -> torch.Tensor | None:
        scores = self.mean_over_layers(group, _change_of_loss)
        return None if scores is None else mean_one(scores)


def _change_of_loss(weight: nn.Parameter) -> torch.Tensor:
    # No gradient reached this weight: the loss does not depend on it.
    return torch.zeros_like(weight) if weight.grad is None else (weight * weight.grad).abs()
