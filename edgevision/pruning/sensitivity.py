"""What narrowing a group, or removing a block, costs: the loss with it silenced, measured."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from edgevision.errors import ModelError, UsageError
from edgevision.pruning.blocks import removed
from edgevision.pruning.gradients import Batches, Loss, some_batches
from edgevision.pruning.importance.base import channel_axis
from edgevision.pruning.narrow import parameter_axis
from edgevision.pruning.search import LossScale, Options
from edgevision.pruning.widths import Prunable

_SHARES = (0.25, 0.5, 0.75, 1.0)  # of the way to the narrowest width
_IMAGES = 1024  # enough: losses are compared on the same ones
_TIE = 1e-3  # of a group's score counts as loss, so that what costs nothing still has an order


def measured_losses(
    module: nn.Module,
    candidates: Sequence[Prunable],
    batches: Batches | None,
    loss: Loss | None,
    number: int,
    *,
    progress: Callable[[str, int, int], None] = lambda phase, done, total: None,
) -> list[Options]:
    """For each group the loss that each of its widths adds, the other groups whole.

    Measured at four widths of each group; between them it rises with the importance of the units
    that leave. Batch norms take the statistics of the batch, as they would adapt to what is left.

    Args:
        number: of batches that are looked at, at most; fewer where they hold enough images.
        progress: called with (phase, done, total).

    Raises:
        UsageError: ``batches`` or ``loss`` is missing.
        ModelError: there is no batch, or the loss of the whole network is not finite.
    """
    work, data, loss, base = _prepared(module, batches, loss, number)
    scale = LossScale(base, _loss(work, data, _of_nothing(loss)))
    found = []
    for index, item in enumerate(candidates):
        progress("measuring sensitivity", index, len(candidates))
        found.append(_options(work, item, data, loss, scale))
    progress("measuring sensitivity", len(candidates), len(candidates))
    return found


def removal_losses(
    module: nn.Module,
    removals: Sequence[Sequence[str]],
    batches: Batches | None,
    loss: Loss | None,
    number: int,
    *,
    progress: Callable[[str, int, int], None] = lambda phase, done, total: None,
) -> list[float]:
    """For each of ``removals`` the loss that the network adds without these blocks, all wide.

    Measured as :func:`measured_losses` does, on the same images; what is not finite is infinite.

    Args:
        removals: names of the blocks that go together.
        number: as for :func:`measured_losses`.
        progress: called with (phase, done, total).

    Raises:
        UsageError, ModelError: as :func:`measured_losses`.
    """
    work, data, loss, base = _prepared(module, batches, loss, number)
    found = []
    for index, names in enumerate(removals):
        progress("measuring blocks", index, len(removals))
        with removed(work, names):
            value = _loss(work, data, loss) - base
        found.append(max(0.0, value) if np.isfinite(value) else float("inf"))
    progress("measuring blocks", len(removals), len(removals))
    return found


def _prepared(
    module: nn.Module, batches: Batches | None, loss: Loss | None, number: int
) -> tuple[nn.Module, list[tuple[torch.Tensor, Any]], Loss, float]:
    """The network as its losses are measured, the images, the loss and its value."""
    if batches is None or loss is None:
        raise UsageError("The search for widths needs training data: give batches and loss.")
    work = _adapting(module)
    data: list[tuple[torch.Tensor, Any]] = []
    for batch in some_batches(work, batches, number):
        data.append(batch)
        if sum(len(seen) for seen, _ in data) >= _IMAGES:
            break
    base = _loss(work, data, loss)
    if not np.isfinite(base):
        raise ModelError(f"The loss of the network is {base}, expected a number.")
    return work, data, loss, base


def _of_nothing(loss: Loss) -> Loss:
    """``loss`` of outputs that are zero; of anything but one tensor it is not known."""

    def of_zeros(outputs: Any, targets: Any) -> torch.Tensor:
        if not isinstance(outputs, torch.Tensor):
            return torch.tensor(torch.inf)
        return loss(torch.zeros_like(outputs), targets)

    return of_zeros


def _options(work: nn.Module, item: Prunable, data: Any, loss: Loss, scale: LossScale) -> Options:
    last = len(item.allowed) - 1
    places = sorted({max(1, round(share * last)) for share in _SHARES})
    units = len(item.group.units)
    lost = np.concatenate([[0.0], item.scores.cumsum()])  # by units gone
    gone = [units - item.allowed[place] for place in places]
    added = [0.0]
    for count in gone:
        with silenced(work, item, count):
            value = _loss(work, data, loss) - scale.whole
        # No width is worth more than a wider one; what is not finite is as bad as can be.
        added.append(max(added[-1], value) if np.isfinite(value) else max(10.0, 2 * added[-1]))
    at = lost[[0, *gone]]
    share = lost / max(lost[gone[-1]], 1e-12)
    losses = np.interp(lost, at, added) + _TIE * share
    by_width = tuple(float(losses[units - kept]) for kept in item.allowed)
    return Options(item.allowed, by_width, scale)


def _adapting(module: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose batch norms use each batch's own statistics."""
    work = copy.deepcopy(module).eval()
    for layer in work.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.train()
            layer.momentum = 0.0
    return work


@torch.no_grad()
def _loss(module: nn.Module, data: Any, loss: Loss) -> float:
    total = sum(float(loss(module(images), targets)) * len(images) for images, targets in data)
    return total / sum(len(images) for images, _ in data)


@contextmanager
def silenced(module: nn.Module, item: Prunable, count: int) -> Iterator[None]:
    """Within the block the first ``count`` units of ``item`` put out zeros."""
    roots = np.concatenate([item.group.units[unit] for unit in item.order[:count]])
    stored: list[tuple[torch.Tensor, torch.Tensor]] = []
    with torch.no_grad():
        for slot in item.group.slots:
            if slot.side == "in":
                continue
            index = torch.as_tensor(slot.channels[np.isin(slot.roots, roots)])
            for tensor, axis in _made_by(module, slot.name, slot.width):
                stored.append((tensor, tensor.clone()))
                tensor.index_fill_(axis, index.to(tensor.device), 0.0)
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, values in reversed(stored):
                tensor.copy_(values)


def _made_by(module: nn.Module, name: str, width: int) -> Iterator[tuple[torch.Tensor, int]]:
    """Tensors of a layer or the parameter ``name`` with the axis of its output channels."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    if name in parameters:
        yield parameters[name], parameter_axis(parameters[name], width)
        return
    layer: Any = module.get_submodule(name)
    for parameter in layer.parameters(recurse=False):
        if parameter.ndim == 1 and len(parameter) == width:
            yield parameter, 0
        elif parameter.ndim > 1:
            yield parameter, channel_axis(layer, "out")
