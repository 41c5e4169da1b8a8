"""Second-order expansion of the loss, with the diagonal of the Fisher matrix for the Hessian."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from edgevision.pruning.gradients import Batches, Loss, mean_squared_gradients
from edgevision.pruning.importance.base import Importance, mean_one

if TYPE_CHECKING:
    from edgevision.pruning.config import PruneConfig
    from edgevision.pruning.graph import Group


class Hessian(Importance):
    """Mean over the group's layers of sum E[(weight * gradient)^2] of a channel, over images.

    From "Optimal Brain Damage" (LeCun et al., NIPS 1989), equation 5, s = h w^2 / 2, with the
    empirical Fisher E[g^2] in place of the Hessian's diagonal h as in "Faster gaze prediction with
    dense networks and Fisher pruning" (Theis et al., 2018). Gradients of single images that cancel
    in a batch, as they do near an optimum, count here and not in Taylor.
    """

    def __init__(self, config: PruneConfig) -> None:
        super().__init__(config)
        self._fisher: dict[nn.Parameter, torch.Tensor] = {}

    @contextmanager
    def observing(
        self,
        module: nn.Module,
        groups: Sequence[Group],
        batches: Batches | None,
        loss: Loss | None,
    ) -> Iterator[None]:
        self._fisher = mean_squared_gradients(module, batches, loss, self.config.gradient_batches)
        yield

    def _score(self, group: Group) -> torch.Tensor | None:
        scores = self.mean_over_layers(group, self._change_of_loss)
        return None if scores is None else mean_one(scores)

    def _change_of_loss(self, weight: nn.Parameter) -> torch.Tensor:
        # No gradient reached a weight without an entry: no loss depends on it.
        fisher = self._fisher.get(weight)
        return torch.zeros_like(weight) if fisher is None else weight.pow(2) * fisher
