"""Take channels out of layers and parameters, each once with all that leaves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from edgevision.errors import ModelError
from edgevision.lazy import require


class Removals:
    """Channels that leave, by layer or parameter and side."""

    def __init__(self) -> None:
        self._gone: dict[tuple[str, str], set[int]] = defaultdict(set)

    def add(self, name: str, side: str, channels: Iterable[int]) -> None:
        """Channels of ``name`` at ``side``: "in", "out", or "both" where the two are one."""
        self._gone[name, side].update(int(channel) for channel in channels)

    def apply(self, module: nn.Module, widths: Mapping[tuple[str, str], int]) -> None:
        """Narrow ``module`` in place. What was frozen stays so.

        Args:
            widths: present channels of everything that was added.

        Raises:
            ModelError: nothing would be left of a layer; ``module`` is unchanged then.
        """
        for key, channels in self._gone.items():
            if len(channels) >= widths[key]:
                raise ModelError(f"Pruning would leave '{key[0]}' without channels.")
        frozen = [name for name, p in module.named_parameters() if not p.requires_grad]
        for (name, side), channels in self._gone.items():
            if not channels:
                continue
            owner, _, key = name.rpartition(".")
            found = getattr(module.get_submodule(owner), key)
            if isinstance(found, nn.Parameter):
                narrow = _narrowed(found, widths[name, side], channels)
                setattr(module.get_submodule(owner), key, narrow)
            else:
                _narrow_layer(found, side, sorted(channels))
        for name in frozen:
            module.get_parameter(name).requires_grad_(False)


def channel_axis_of(parameter: torch.Tensor, width: int) -> int:
    """The last axis of a plain parameter that is ``width`` long, as torch-pruning takes it."""
    return max(axis for axis, size in enumerate(parameter.shape) if size == width)


def _narrowed(parameter: nn.Parameter, width: int, channels: set[int]) -> nn.Parameter:
    kept = [channel for channel in range(width) if channel not in channels]
    index = torch.tensor(kept, device=parameter.device)
    return nn.Parameter(parameter.detach().index_select(channel_axis_of(parameter, width), index))


def _narrow_layer(layer: Any, side: str, channels: list[int]) -> None:
    tp = require("torch_pruning")
    pruner = tp.function.PrunerBox[tp.ops.module2type(layer)]
    if isinstance(layer, nn.LayerNorm):
        pruner.pruning_dim = -1
    (pruner.prune_in_channels if side == "in" else pruner.prune_out_channels)(layer, channels)
