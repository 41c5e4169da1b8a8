"""Take channels out of layers and parameters, each once with all that leaves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import nn

from edgevision.errors import ModelError
from edgevision.lazy import require
from edgevision.pruning.by_groups import is_by_groups

Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Sizes:
    """Attribute ``key`` of module ``owner``: how many channels there are, in each of some parts.

    ``parts`` are the present numbers, a channel's place is counted over all of them.
    ``channels[i]`` leaves with channel ``roots[i]`` of the group's root layer.
    """

    owner: str
    key: str
    parts: tuple[int, ...]
    channels: Ints
    roots: Ints


class Removals:
    """What leaves: channels of layers and parameters, with the attributes that count them."""

    def __init__(self) -> None:
        self._gone: dict[tuple[str, str], set[int]] = defaultdict(set)
        self._widths: dict[tuple[str, str], int] = {}
        self._sizes: dict[tuple[str, str], tuple[tuple[int, ...], set[int]]] = {}

    def add(self, name: str, side: str, width: int, channels: Iterable[int]) -> None:
        """Channels of ``width`` at the side "in" or "out", or at "both" where they are one."""
        self._gone[name, side].update(int(channel) for channel in channels)
        self._widths[name, side] = width

    def add_sizes(self, sizes: Sizes, channels: Iterable[int]) -> None:
        """Channels that an attribute counts no longer."""
        known = self._sizes.setdefault((sizes.owner, sizes.key), (sizes.parts, set()))
        known[1].update(int(channel) for channel in channels)

    def apply(self, module: nn.Module) -> None:
        """Narrow ``module`` in place. What was frozen stays so.

        Raises:
            ModelError: nothing would be left of a layer; ``module`` is unchanged then.
        """
        for place, channels in self._gone.items():
            if len(channels) >= self._widths[place]:
                raise ModelError(f"Pruning would leave '{place[0]}' without channels.")
        for (owner, key), (parts, lost) in self._sizes.items():
            _lower(module.get_submodule(owner), key, parts, lost)
        # Told apart before: a narrow grouped convolution looks like a depthwise one.
        pruners = {place: _pruner(module, place[0]) for place in self._gone}
        frozen = [name for name, p in module.named_parameters() if not p.requires_grad]
        for (name, side), channels in self._gone.items():
            if not channels:
                continue
            owner, _, key = name.rpartition(".")
            found = getattr(module.get_submodule(owner), key)
            if isinstance(found, nn.Parameter):
                narrow = _narrowed(found, self._widths[name, side], channels)
                setattr(module.get_submodule(owner), key, narrow)
            else:
                _narrow_layer(found, side, sorted(channels), pruners[name, side])
        for name in frozen:
            module.get_parameter(name).requires_grad_(False)


def _lower(owner: nn.Module, key: str, parts: tuple[int, ...], lost: set[int]) -> None:
    ends = accumulate(parts)
    left = [
        size - sum(end - size <= channel < end for channel in lost)
        for size, end in zip(parts, ends, strict=True)
    ]
    kind = type(getattr(owner, key))
    setattr(owner, key, left[0] if kind is int else kind(left))


def parameter_axis(parameter: torch.Tensor, width: int) -> int:
    """The last axis of a plain parameter that is ``width`` long, as torch-pruning takes it."""
    return max(axis for axis, size in enumerate(parameter.shape) if size == width)


def _narrowed(parameter: nn.Parameter, width: int, channels: set[int]) -> nn.Parameter:
    kept = [channel for channel in range(width) if channel not in channels]
    index = torch.tensor(kept, device=parameter.device)
    return nn.Parameter(parameter.detach().index_select(parameter_axis(parameter, width), index))


def _pruner(module: nn.Module, name: str) -> Any:
    """torch-pruning's functions for the layer ``name``."""
    tp = require("torch_pruning")
    owner, _, key = name.rpartition(".")
    return tp.function.PrunerBox[tp.ops.module2type(getattr(module.get_submodule(owner), key))]


def _narrow_layer(layer: Any, side: str, channels: list[int], pruner: Any) -> None:
    groups = len(channels) * layer.groups // layer.out_channels if is_by_groups(layer) else 0
    if isinstance(layer, nn.LayerNorm):
        pruner.pruning_dim = -1
    (pruner.prune_in_channels if side == "in" else pruner.prune_out_channels)(layer, channels)
    if groups:
        layer.groups -= groups
        layer.in_channels -= groups
