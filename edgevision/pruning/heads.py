"""Attention heads: which channels of which layers each head has, found with gradients.

What a head reaches is independent of how queries, keys and values are laid out: a channel belongs
to a head if the part of the output projection's input that the head writes depends on it. Whether
the attention runs with fewer heads, and which of its attributes hold their number, is tried out:
it has to give what it gives with the same heads silenced.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from edgevision.pruning.narrow import Removals
from edgevision.pruning.tracing import all_trainable
from edgevision.pruning.whole import forget

Ints = np.ndarray[Any, np.dtype[np.int64]]
Attribute = tuple[str, str, int]
Dense = (nn.modules.conv._ConvNd, nn.Linear)
_Norms = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
_ATTRIBUTES = 5  # that may have to change; more are not tried
_RTOL = 1e-3
_SCALES = (1.0, -1.0, 8.0, -8.0)  # of the noise that is looked at


@dataclass(frozen=True)
class HeadSlot:
    """One side of a layer, or a plain parameter, that heads have channels of.

    ``channels`` is int64 (heads, channels of each); names are relative to the attention.
    """

    name: str
    side: Literal["in", "out", "both"]
    width: int
    channels: Ints


@dataclass(frozen=True)
class Heads:
    """The heads of the attention ``name``; the first slot is the root of their group.

    ``attributes`` are (module, attribute, present value) that shrink with the number of heads.
    """

    name: str
    count: int
    slots: tuple[HeadSlot, ...]
    attributes: tuple[Attribute, ...]

    def full_name(self, slot: HeadSlot) -> str:
        """Name of the slot's layer or parameter in the network."""
        return f"{self.name}.{slot.name}"


class _NoHeadsError(Exception):
    """The heads cannot be told apart, or not be removed; the message says why."""


def find_heads(module: nn.Module, example: torch.Tensor) -> tuple[list[Heads], dict[str, str]]:
    """Heads of each attention in ``module``, and of the others the reason they stay whole."""
    places = _attentions(module)
    found: list[Heads] = []
    whole: dict[str, str] = {}
    forget(module)
    # That the network fails is for the trace to say, which comes next.
    with _calls(module, places) as calls, torch.no_grad(), suppress(Exception):
        module(example)
    forget(module)
    for name, number in places.items():
        try:
            if len(calls[name]) != 1:
                raise _NoHeadsError(f"it runs {len(calls[name])} times")
            found.append(_heads(module.get_submodule(name), name, number, *calls[name][0]))
        except _NoHeadsError as reason:
            whole[name] = f"the heads of attention '{name}' stay: {reason}"
        except Exception as error:  # noqa: BLE001 - a foreign forward may raise, or return, anything
            why = f"{type(error).__name__}: {_line(error)}"
            whole[name] = f"the heads of attention '{name}' stay, it cannot be looked into: {why}"
    return found, whole


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _attentions(module: nn.Module) -> dict[str, int]:
    """Innermost modules with a number of heads above 1 and layers to narrow: name → heads."""
    found: dict[str, int] = {}
    for name, layer in reversed(list(module.named_modules())):
        number = next((value for key, value in vars(layer).items() if _is_heads(key, value)), None)
        dense = sum(isinstance(inner, Dense) for inner in layer.modules())
        inside = any(other.startswith(f"{name}.") for other in found)
        if name and number is not None and dense > 1 and not inside:
            found[name] = number
    return dict(reversed(found.items()))


def _is_heads(key: str, value: object) -> bool:
    return "head" in key and "dim" not in key and type(value) is int and value > 1


@contextmanager
def _calls(module: nn.Module, names: Collection[str]) -> Iterator[dict[str, list[Any]]]:
    """Arguments of the named modules, as they are called within the block."""
    calls: dict[str, list[Any]] = {name: [] for name in names}
    hooks = [
        module.get_submodule(name).register_forward_pre_hook(
            lambda _, args, kwargs, name=name: calls[name].append((args, kwargs)), with_kwargs=True
        )
        for name in names
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def _heads(attention: nn.Module, name: str, number: int, args: Any, kwargs: Any) -> Heads:
    if not args or not isinstance(args[0], torch.Tensor):
        raise _NoHeadsError("it takes no tensor")
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(args[0].shape, generator=generator).to(args[0])
    attention = _lively(attention)
    with torch.enable_grad(), all_trainable(attention):
        slots = _probed(attention, number, noise, args[1:], kwargs)
    forget(attention)
    attributes = _attributes(attention, slots, number, (noise, *args[1:]), kwargs)
    owned = [(f"{name}.{owner}" if owner else name, key, v) for owner, key, v in attributes]
    return Heads(name, number, slots, tuple(owned))


def _probed(
    attention: nn.Module, number: int, noise: torch.Tensor, others: Any, kwargs: Any
) -> tuple[HeadSlot, ...]:
    """The slots, from as many passes as it takes: an activation may hide a channel in one."""
    runs: list[_Run] = []
    for scale in _SCALES:
        forget(attention)
        runs.append(_Run(attention, (noise * scale, *others), kwargs))
        try:
            return _slots(attention, runs, number)
        except _NoHeadsError as reason:
            error = reason
    raise error


@torch.no_grad()
def _lively(attention: nn.Module) -> nn.Module:
    """A copy in which no parameter is all zero, as new ones may be: zeros would hide mistakes."""
    try:
        twin = copy.deepcopy(attention)
    except Exception as cause:
        raise _NoHeadsError(f"it cannot be copied: {cause}") from cause
    generator = torch.Generator().manual_seed(2)
    for parameter in twin.parameters():
        if not bool(parameter.any()):
            values = torch.rand(parameter.shape, generator=generator) * 0.2 + 0.1
            parameter.copy_(values.to(parameter))
    return twin


class _Run:
    """One pass: what each layer puts out, in order, and what the output projection reads."""

    def __init__(self, attention: nn.Module, args: Any, kwargs: Any) -> None:
        self.outputs: dict[str, torch.Tensor] = {}
        inputs: dict[str, torch.Tensor] = {}
        hooks = []
        for name, layer in attention.named_modules():
            if name and isinstance(layer, (*Dense, *_Norms)):

                def keep(_: Any, given: Any, result: Any, name: str = name) -> None:
                    inputs[name], self.outputs[name] = given[0], result

                hooks.append(layer.register_forward_hook(keep))
        try:
            attention(*args, **kwargs)
        finally:
            for hook in hooks:
                hook.remove()
        dense = [name for name in self.outputs if _is_dense(attention.get_submodule(name))]
        if len(dense) < 2:
            raise _NoHeadsError("it has no output projection")
        self.reader = dense[-1]
        self.read = inputs[self.reader]


def _slots(attention: nn.Module, runs: Sequence[_Run], number: int) -> tuple[HeadSlot, ...]:
    """Every slot, the first dense layer's output first; the output projection's input last."""
    reader = runs[0].reader
    axis, width = _channels_of(attention.get_submodule(reader), runs[0].read, "in")
    if width % number:
        raise _NoHeadsError(f"{width} channels are no multiple of {number} heads")
    layers = [name for name in runs[0].outputs if name != reader]
    own = {
        name: parameter
        for name, parameter in attention.named_parameters()
        if not isinstance(attention.get_submodule(name.rpartition(".")[0]), (*Dense, *_Norms))
    }
    layouts = np.arange(width).reshape(number, -1), np.arange(width).reshape(-1, number).T
    for layout in layouts:
        maps = [
            _reached(run.read, axis, layout, [*(run.outputs[n] for n in layers), *own.values()])
            for run in runs
        ]
        slots = []
        for name, reached in zip((*layers, *own), zip(*maps, strict=True), strict=True):
            used = torch.stack(reached).any(0)
            slots.append(_slot(attention, name, used, is_parameter=name in own))
        if "mixed" in slots:
            continue
        found = [slot for slot in slots if isinstance(slot, HeadSlot)]
        roots = [slot for slot in found if slot.side == "out"]
        if roots:
            others = [slot for slot in found if slot is not roots[0]]
            last = HeadSlot(reader, "in", width, layout.astype(np.int64))
            return (roots[0], *others, last)
    raise _NoHeadsError("their channels cannot be told apart")


def _reached(
    read: torch.Tensor, axis: int, layout: Ints, tensors: list[torch.Tensor]
) -> list[torch.Tensor]:
    """For each tensor bool (heads, *its shape): what each head's part of ``read`` depends on."""
    generator = torch.Generator().manual_seed(1)
    weights = torch.rand(read.shape, generator=generator).to(read) + 0.5
    found = [
        torch.zeros((len(layout), *tensor.shape), dtype=torch.bool, device=read.device)
        for tensor in tensors
    ]
    for head, channels in enumerate(layout):
        index = torch.as_tensor(channels, device=read.device)
        part = (read * weights).index_select(axis, index).sum()
        gradients = torch.autograd.grad(part, tensors, retain_graph=True, allow_unused=True)
        for used, gradient in zip(found, gradients, strict=True):
            if gradient is not None:
                used[head] = gradient != 0
    return found


def _slot(
    attention: nn.Module, name: str, used: torch.Tensor, *, is_parameter: bool
) -> HeadSlot | Literal["mixed"] | None:
    """The slot; None if heads share the layer or do without it; "mixed" if it is neither."""
    heads = len(used)
    if not bool(used.any()):
        return None
    if is_parameter:
        axes = [axis for axis in range(1, used.ndim) if used.shape[axis] % heads == 0]
        side: Literal["out", "both"] = "both"
    else:
        layer = attention.get_submodule(name)
        axes = [_channels_of(layer, used[0], "out")[0] % (used.ndim - 1) + 1]
        side = "out" if _is_dense(layer) else "both"
    users = torch.zeros(0)
    for axis in axes:
        by_channel = used.movedim(axis, 1).flatten(2).any(2)  # (heads, channels)
        users = by_channel.sum(0)
        each = by_channel.sum(1)
        if bool((users == 1).all()) and bool((each == each[0]).all()):
            channels = np.stack([np.flatnonzero(row) for row in by_channel.cpu().numpy()])
            return HeadSlot(name, side, used.shape[axis], channels.astype(np.int64))
    if is_parameter:
        return None  # whether the heads can share it is tried out
    return None if bool((users == heads).all()) else "mixed"


def _channels_of(layer: Any, tensor: torch.Tensor, side: str) -> tuple[int, int]:
    """Axis and number of channels of a layer's input or output."""
    if isinstance(layer, nn.Linear):
        axis = -1
    elif isinstance(layer, nn.LayerNorm):
        axis = -1 if tensor.shape[-1] == layer.normalized_shape[-1] else 1
    else:
        axis = 1
    return axis, int(tensor.shape[axis])


def _is_dense(layer: nn.Module) -> bool:
    """A convolution or linear layer that is not depthwise."""
    if isinstance(layer, nn.modules.conv._ConvNd):
        return layer.groups < layer.out_channels or layer.out_channels == 1
    return isinstance(layer, nn.Linear)


def _attributes(
    attention: nn.Module, slots: Sequence[HeadSlot], number: int, args: Any, kwargs: Any
) -> tuple[Attribute, ...]:
    """The attributes with which the attention runs rightly without some of its heads."""
    widths = {slot.width for slot in slots}
    counts: list[Attribute] = []
    sizes: list[Attribute] = []
    for name, layer in attention.named_modules():
        if isinstance(layer, (*Dense, *_Norms)):
            continue
        for key, value in vars(layer).items():
            if _is_heads(key, value) and value == number:
                counts.append((name, key, value))
            elif type(value) is int and value in widths and value % number == 0:
                sizes.append((name, key, value))
    gone = range(0, number, 2) if number > 2 else range(1)
    error = "no attribute fits"
    want = _output(_silent(attention, slots[-1], gone), args, kwargs)
    for chosen in _subsets(sizes[:_ATTRIBUTES]):
        narrow = copy.deepcopy(attention)
        _narrow(narrow, slots, (*counts, *chosen), number, gone)
        try:
            have = _output(narrow, args, kwargs)
        except Exception as cause:  # noqa: BLE001 - a foreign forward may raise anything
            error = _line(cause)
            continue
        if have.shape == want.shape and float((have - want).norm() / want.norm()) < _RTOL:
            return (*counts, *chosen)
        error = "without some of them it would compute something else"
    raise _NoHeadsError(error)


def _subsets(items: Sequence[Attribute]) -> Iterator[tuple[Attribute, ...]]:
    """All of them, none of them, then the ways between."""
    yield tuple(items)
    for size in range(len(items)):
        yield from combinations(items, size)


@torch.no_grad()
def _output(attention: nn.Module, args: Any, kwargs: Any) -> torch.Tensor:
    result = attention(*args, **kwargs)
    tensor: torch.Tensor = result[0] if isinstance(result, (tuple, list)) else result
    return tensor


@torch.no_grad()
def _silent(attention: nn.Module, reader: HeadSlot, gone: Sequence[int]) -> nn.Module:
    """A copy whose output projection does not read the heads ``gone``."""
    twin = copy.deepcopy(attention)
    layer: Any = twin.get_submodule(reader.name)
    index = torch.as_tensor(reader.channels[list(gone)].ravel(), device=layer.weight.device)
    layer.weight.index_fill_(0 if getattr(layer, "transposed", False) else 1, index, 0.0)
    return twin


def _narrow(
    attention: nn.Module,
    slots: Sequence[HeadSlot],
    attributes: Sequence[Attribute],
    number: int,
    gone: Sequence[int],
) -> None:
    removals = Removals()
    for slot in slots:
        removals.add(slot.name, slot.side, slot.width, slot.channels[list(gone)].ravel())
    removals.apply(attention)
    for owner, key, value in attributes:
        setattr(attention.get_submodule(owner), key, value - len(gone) * (value // number))
