"""Size of what a channel passes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from edgevision.pruning.gradients import Batches, Loss, some_batches
from edgevision.pruning.importance.base import Importance, mean_one

if TYPE_CHECKING:
    from edgevision.pruning.config import PruneConfig
    from edgevision.pruning.graph import Group

_Readers = (nn.modules.conv._ConvNd, nn.Linear)


class Activation(Importance):
    """Mean |activation| of a channel over images and places, averaged over the layers it feeds.

    From "Pruning Convolutional Neural Networks for Resource Efficient Inference" (Molchanov et
    al., ICLR 2017), section 2.2. Taken where convolutions and linear layers read the channel, so
    behind its normalization and activation; no basis where none reads it.
    """

    def __init__(self, config: PruneConfig) -> None:
        super().__init__(config)
        self._means: dict[str, torch.Tensor] = {}

    @contextmanager
    def observing(
        self,
        module: nn.Module,
        groups: Sequence[Group],
        batches: Batches | None,
        loss: Loss | None,
    ) -> Iterator[None]:
        readers = {
            slot.name: slot.module
            for group in groups
            for slot in group.slots
            if slot.side == "in" and isinstance(slot.module, _Readers)
        }
        self._means = {}
        handles = [
            layer.register_forward_pre_hook(self._watch(name)) for name, layer in readers.items()
        ]
        try:
            with torch.no_grad():
                for images, _ in some_batches(module, batches, self.config.gradient_batches):
                    module(images)
        finally:
            for handle in handles:
                handle.remove()
        yield

    def _watch(self, name: str) -> Any:
        def hook(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            if not inputs:  # called by keyword
                return
            axis = -1 if isinstance(layer, nn.Linear) else 1
            values = inputs[0].abs().float().movedim(axis, 0).flatten(1)
            # Batches of fewer images weigh less; the scale of a layer's sum goes below.
            sums = values.sum(1).cpu() / values[0].numel() * len(inputs[0])
            self._means[name] = self._means.get(name, torch.zeros(len(sums))) + sums

        return hook

    def _score(self, group: Group) -> torch.Tensor | None:
        total = torch.zeros(group.channels)
        found = 0
        for slot in group.slots:
            if slot.side != "in" or slot.name not in self._means:
                continue
            values = self._means[slot.name][torch.as_tensor(slot.channels)]
            total.index_add_(0, torch.as_tensor(slot.roots), values)
            found += 1
        return mean_one(total / found) if found else None
