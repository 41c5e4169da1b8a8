"""Starting from given weights: load them without a foreign head, freeze all but the head."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from edgevision.errors import ModelError
from edgevision.models.checkpoint import load_tensors
from edgevision.tasks.base import Task


def start_from(module: nn.Module, path: Path, task: Task, num_classes: int) -> list[str]:
    """Load ``path`` (safetensors) into ``module``.

    The head's weights are left out where they are missing or of another shape; everything else
    must fit.

    Returns:
        Names of the head's weights that keep their fresh values.

    Raises:
        ModelError: no such file, a pickle, damage, NaN, or weights of another network.
    """
    given = load_tensors(path)
    own = module.state_dict()
    head = head_names(module, task, num_classes)
    fits = {k: v for k, v in given.items() if k in own and v.shape == own[k].shape}
    absent = [name for name in own if name not in fits]
    wrong = [name for name in absent if name not in head]
    if wrong:
        name = wrong[0]
        actual = f"has shape {tuple(given[name].shape)}" if name in given else "is not in the file"
        raise ModelError(
            f"'{path}' holds weights of another network: {len(wrong)} of {len(own)} tensors do not "
            f"fit; {name} {actual}, expected {tuple(own[name].shape)}.",
            hint="Name the network that the weights were made with.",
        )
    module.load_state_dict(fits, strict=False)
    return absent


def head_names(module: nn.Module, task: Task, num_classes: int) -> set[str]:
    """Names in ``state_dict`` of the weights that belong to the task's head."""
    heads = {id(layer) for layer in task.head_layers(module, num_classes)}
    return {
        f"{path}.{name}" if path else name
        for path, layer in module.named_modules()
        if id(layer) in heads
        for name in layer.state_dict()
    }


def train_mode(module: nn.Module, heads: list[nn.Module], frozen: bool) -> None:
    """Training mode; a frozen body also keeps its batch statistics."""
    module.train(not frozen)
    for head in heads:
        head.train()
