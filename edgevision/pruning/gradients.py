"""Training data for scores that need them: gradients of the loss, batches as they are."""

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
    module.zero_grad(set_to_none=True)
    try:
        for step, (images, targets) in enumerate(some_batches(module, batches, number)):
            _backward(module, images, targets, loss, f"batch {step}")
        yield
    finally:
        module.zero_grad(set_to_none=True)


def mean_squared_gradients(
    module: nn.Module, batches: Batches | None, loss: Loss | None, number: int
) -> dict[nn.Parameter, torch.Tensor]:
    """E[g^2] by parameter, g the gradient of one image's loss, over all of ``number`` batches.

    One backward pass an image. Parameters that no loss depends on are not in the result.

    Raises:
        UsageError: ``batches`` or ``loss`` is missing.
        ModelError: there is no batch, or a loss is not finite.
    """
    squares: dict[nn.Parameter, torch.Tensor] = {}
    seen = 0
    for images, targets in some_batches(module, batches, number):
        for index in range(len(images)):
            module.zero_grad(set_to_none=True)
            one = slice(index, index + 1)
            _backward(module, images[one], _part(targets, one), loss, f"image {seen}")
            seen += 1
            for parameter in module.parameters():
                if parameter.grad is None:
                    continue
                if parameter not in squares:
                    squares[parameter] = torch.zeros_like(parameter.grad)
                squares[parameter].addcmul_(parameter.grad, parameter.grad)
    module.zero_grad(set_to_none=True)
    return {parameter: total / seen for parameter, total in squares.items()}


def some_batches(
    module: nn.Module, batches: Batches | None, number: int
) -> Iterator[tuple[torch.Tensor, Any]]:
    """The first ``number`` batches, on the device of ``module``.

    Raises:
        UsageError: ``batches`` is missing.
        ModelError: there is no batch.
    """
    if batches is None:
        raise UsageError("This importance rests on training data: give batches and loss.")
    device = next(module.parameters()).device
    empty = True
    for images, targets in islice(batches(), number):
        empty = False
        yield images.to(device), _to_device(targets, device)
    if empty:
        raise ModelError("No batch to score by: the training data is empty.")


def _backward(
    module: nn.Module, images: torch.Tensor, targets: Any, loss: Loss | None, place: str
) -> None:
    if loss is None:
        raise UsageError("This importance needs gradients: give batches and loss.")
    with all_trainable(module), torch.enable_grad():
        value = loss(module(images), targets)
        if not bool(torch.isfinite(value)):
            raise ModelError(f"The loss of {place} is {value.item()}, expected a number.")
        value.backward()  # type: ignore[no-untyped-call]


def _part(targets: Any, part: slice) -> Any:
    """The targets of some images of a batch."""
    if isinstance(targets, dict):
        return {key: _part(value, part) for key, value in targets.items()}
    return targets[part]


def _to_device(targets: Any, device: torch.device) -> Any:
    if isinstance(targets, torch.Tensor):
        return targets.to(device)
    if isinstance(targets, dict):
        return {key: _to_device(value, device) for key, value in targets.items()}
    if isinstance(targets, (list, tuple)):
        return type(targets)(_to_device(value, device) for value in targets)
    return targets
