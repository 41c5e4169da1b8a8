"""Exponential moving average of a network's weights and statistics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """Keeps ``average = decay * average + (1 - decay) * value`` of every floating tensor.

    The decay rises as ``(1 + n) / (10 + n)`` over the first steps n, so that the average forgets
    the untrained weights.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.average = {name: value.clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take in the weights after one step."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)

    @torch.no_grad()
    def restore(self, average: Mapping[str, Tensor], steps: int) -> None:
        """Carry on from a stored average."""
        self.steps = steps
        for name, value in average.items():
            self.average[name].copy_(value)


@contextmanager
def weights_of(module: nn.Module, ema: Ema | None) -> Iterator[None]:
    """For the time of the block the network has its averaged weights, where there are any."""
    if ema is None:
        yield
        return
    own = {name: value.clone() for name, value in module.state_dict().items()}
    module.load_state_dict(ema.average)
    try:
        yield
    finally:
        module.load_state_dict(own)
