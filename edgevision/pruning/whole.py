"""The network that is pruned as a whole: copied, run on an example, its outputs' shapes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from edgevision.errors import ModelError, unknown_name
from edgevision.pruning.macs import Count, count


def copied(module: nn.Module) -> nn.Module:
    """A deep copy.

    Raises:
        ModelError: it cannot be copied.
    """
    try:
        return copy.deepcopy(module)
    except Exception as error:
        raise ModelError(
            f"Cannot copy {type(module).__name__}: {error}",
            hint="Tensors that a module keeps between calls must be detached.",
        ) from error


def example_input(module: nn.Module, shape: tuple[int, ...]) -> torch.Tensor:
    """Noise of ``shape`` on the network's device, in its dtype.

    Raises:
        ModelError: the network has no parameters.
    """
    parameter = next((p for p in module.parameters() if p.is_floating_point()), None)
    if parameter is None:
        raise ModelError(f"{type(module).__name__} has no parameters to prune.")
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator).to(parameter.device, parameter.dtype)


def counted(module: nn.Module, example: torch.Tensor) -> Count:
    """MACs and parameters.

    Raises:
        ModelError: the network fails on ``example``, or has nothing to prune.
    """
    try:
        counted = count(module, example)
    except Exception as error:
        raise ModelError(
            f"{type(module).__name__} fails on an input of shape {tuple(example.shape)}: {error}",
            hint="Check the image size and the number of colour channels.",
        ) from error
    if counted.macs == 0:
        raise ModelError(f"{type(module).__name__} has no convolution or linear layer to prune.")
    return counted


def output_shapes(module: nn.Module, example: torch.Tensor) -> list[tuple[int, ...]]:
    """Shapes of all outputs for batches of 1 and 2, in eval mode."""
    found: list[tuple[int, ...]] = []
    with torch.no_grad():
        for size in (1, 2):
            _collect(module(example.repeat(size, *[1] * (example.ndim - 1))), found)
    return found


def _collect(output: Any, found: list[tuple[int, ...]]) -> None:
    if isinstance(output, torch.Tensor):
        found.append(tuple(output.shape))
    elif isinstance(output, Mapping):
        for value in output.values():
            _collect(value, found)
    elif isinstance(output, (list, tuple)):
        for value in output:
            _collect(value, found)


def ignored_names(
    module: nn.Module, ignored: Sequence[nn.Module], patterns: Sequence[str]
) -> set[str]:
    """Names of the layers in ``ignored``, with all inside them, and of those matching ``patterns``.

    Raises:
        ModelError: a pattern matches no layer.
    """
    inside = {id(layer) for given in ignored for layer in given.modules()}
    found = {name for name, layer in module.named_modules() if id(layer) in inside}
    names = [name for name, _ in module.named_modules() if name]
    for pattern in patterns:
        matched = [
            name
            for name in names
            if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")
        ]
        if not matched:
            raise ModelError(unknown_name("layer in ignored_layers", pattern, names))
        found.update(matched)
    return found


def restore_modes(module: nn.Module, modes: Mapping[str, bool]) -> None:
    """Set every layer's training mode to the one that ``modes`` has for its name."""
    for name, layer in module.named_modules():
        layer.training = modes[name]


def forget(module: nn.Module) -> None:
    """Drop what layers keep from earlier passes, as tables of position biases.

    Those that keep something for evaluation drop it when they are set to training.
    """
    modes = {name: layer.training for name, layer in module.named_modules()}
    module.train()
    restore_modes(module, modes)
