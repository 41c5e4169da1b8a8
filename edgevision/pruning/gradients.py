"""Gradients of the loss over a few batches, for scores that need them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import nn

from edgevision.errors import ModelError, UsageError
from edgevision.pruning.tracing import all_trainable

Batches = Callable[[], Iterator[tuple[torch.Tensor, Any]]]
Loss = Callable[[Any, Any], torch.Tensor]


@contextmanager
def accumulated_gradients(
    module: nn.Module, batches: Batches | None, loss: Loss | None, number: int
) -> Iterator[None]:
    """Within the block every parameter holds the gradient summed over ``number`` batches.

    The network runs in eval mode (BatchNorm statistics stay, no dropout). Gradients are cleared
    afterwards.

    Raises:
        UsageError: ``batches`` or ``loss`` is missing.
        ModelError: there is no batch, or the loss is not finite.
    """
    if batches is None or loss is None:
        raise UsageError("This importance needs gradients: give batches and loss.")
    device = next(module.parameters()).device
    module.zero_grad(set_to_none=True)
    seen = 0
    with all_trainable(module), torch.enable_grad():
        for images, targets in islice(batches(), number):
            value = loss(module(images.to(device)), to_device(targets, device))
            if not bool(torch.isfinite(value)):
                raise ModelError(f"The loss of batch {seen} is {value.item()}, expected a number.")
            value.backward()  # type: ignore[no-untyped-call]
            seen += 1
    if seen == 0:
        raise ModelError("No batch to take gradients from: the training data is empty.")
    try:
        yield
    finally:
        module.zero_grad(set_to_none=True)


def to_device(targets: Any, device: torch.device) -> Any:
    if isinstance(targets, torch.Tensor):
        return targets.to(device)
    if isinstance(targets, dict):
        return {key: to_device(value, device) for key, value in targets.items()}
    if isinstance(targets, (list, tuple)):
        return type(targets)(to_device(value, device) for value in targets)
    return targets
