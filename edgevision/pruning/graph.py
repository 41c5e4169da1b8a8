"""Which channels have to leave together: groups of layers, from torch-pruning's graph."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from edgevision.pruning.by_groups import is_by_groups, outputs_of
from edgevision.pruning.heads import Heads, find_heads
from edgevision.pruning.narrow import Removals, Sizes
from edgevision.pruning.splits import split_of_node
from edgevision.pruning.tracing import trace
from edgevision.pruning.walk import LostError, Reached, reached_from

Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Slot:
    """One side of a layer that a group narrows.

    ``channels[i]`` of the layer leaves with channel ``roots[i]`` of the group's root layer.
    ``width`` counts all channels of that side, which may be more than the group reaches.
    ``side`` is "in", "out", or "both" for norms, depthwise convolutions and plain parameters.
    """

    name: str
    module: Any
    side: Literal["in", "out", "both"]
    width: int
    channels: Ints
    roots: Ints


@dataclass(frozen=True)
class Group:
    """Layers that are narrowed together, named after the root layer.

    ``units[i]`` lists the root's channels that only leave together: one channel as a rule, one
    of each block where a grouped convolution or a group norm needs equal blocks. All units reach
    the same layers in the same way; where a root's channels do not, as when a sum reads a
    concatenation, each kind of them is a group, named "root[0]", "root[1]" and so on.
    ``sizes`` are attributes of the network that change with the group.
    """

    name: str
    root: str
    channels: int
    slots: tuple[Slot, ...]
    units: tuple[Ints, ...]
    sizes: tuple[Sizes, ...] = ()

    def layer_units(self, slot: Slot) -> Ints:
        """int64 (units,): channels of ``slot`` that each unit removes."""
        per_root = np.bincount(slot.roots, minlength=self.channels)
        return np.array([per_root[unit].sum() for unit in self.units], dtype=np.int64)


class _StaysWholeError(Exception):
    """The group cannot be pruned; the message says why."""


@dataclass(frozen=True)
class Graph:
    """The prunable groups of a network, and the others with the reason they stay whole."""

    groups: tuple[Group, ...]
    whole: Mapping[str, str]


def find_groups(
    module: nn.Module,
    example: torch.Tensor,
    ignored: Collection[str],
) -> Graph:
    """The groups of ``module`` whose outputs are not among the ``ignored`` layer names.

    Raises:
        ModelError: the network cannot be traced.
    """
    found_heads, whole = find_heads(module, example)
    groups = [
        _head_group(module, heads)
        for heads in found_heads
        if not any(heads.full_name(slot) in ignored for slot in heads.slots[:-1])
    ]
    in_heads = {slot.name for group in groups for slot in group.slots if slot.side != "in"}
    graph = trace(module, example)
    names = {layer: name for name, layer in module.named_modules()}
    told = set(in_heads)  # layers whose group is known, or known to stay whole
    read = set(in_heads)
    for root in list(graph.module2node):
        name = names.get(root, "")
        if not _is_root(root) or name in read:
            continue
        try:
            found, pairs = reached_from(graph, root)
        except LostError:
            whole.setdefault(name, "its channels cannot be followed through splits and joins")
            continue
        outs = {
            names.get(item.node.module, "")
            for item in found
            if graph.is_out_channel_pruning_fn(item.handler)
        }
        try:
            if outs & in_heads:
                continue
            groups.extend(_read(graph, found, pairs, name, names, ignored))
        except _StaysWholeError as reason:
            # A layer of the group may reach more than this one, and be a root that works.
            if name not in told:
                whole[name] = str(reason)
        else:
            read |= outs
            for other in outs & whole.keys():
                del whole[other]
        told |= outs
    return Graph(tuple(groups), whole)


def remove(module: nn.Module, graph: Graph, removals: Mapping[str, Sequence[int]]) -> None:
    """Take the given output channels of the named root layers out of ``module``, in place.

    Args:
        module: the network whose groups ``graph`` has, or a copy of it.

    Raises:
        ModelError: a layer would be left without channels; the module is unchanged then.
    """
    by_root = {group.root: group for group in graph.groups}
    gone = Removals()
    for name, channels in removals.items():
        for slot in by_root[name].slots:
            lost = slot.channels[np.isin(slot.roots, channels)]
            gone.add(slot.name, slot.side, slot.width, lost)
        for sizes in by_root[name].sizes:
            gone.add_sizes(sizes, sizes.channels[np.isin(sizes.roots, channels)])
    gone.apply(module)


def _is_root(layer: Any) -> bool:
    """Whether a group may be named after ``layer``; one by groups goes with what it reads."""
    return isinstance(layer, (nn.modules.conv._ConvNd, nn.Linear)) and not is_by_groups(layer)


def _head_group(module: nn.Module, heads: Heads) -> Group:
    """The group of an attention's heads: a unit is a head."""
    root = heads.slots[0]
    slots = []
    for slot in heads.slots:
        name, each = heads.full_name(slot), slot.channels.shape[1]
        parts = [np.resize(channels, each) for channels in root.channels]
        layer = _named(module, name)
        slots.append(
            Slot(name, layer, slot.side, slot.width, slot.channels.ravel(), np.concatenate(parts))
        )
    sizes = []
    for owner, key, value in heads.attributes:
        each = value // heads.count
        channels = np.arange(value, dtype=np.int64)
        sizes.append(Sizes(owner, key, (value,), channels, root.channels[:, 0].repeat(each)))
    name = heads.full_name(root)
    return Group(name, name, root.width, tuple(slots), tuple(root.channels), tuple(sizes))


def _named(module: nn.Module, name: str) -> Any:
    """The layer or parameter ``name``."""
    owner, _, key = name.rpartition(".")
    return getattr(module.get_submodule(owner), key)


def _read(
    graph: Any,
    found: Sequence[Reached],
    pairs: Sequence[tuple[int, int]],
    name: str,
    names: Mapping[Any, str],
    ignored: Collection[str],
) -> Iterator[Group]:
    channels = len(found[0].roots)
    splits = tuple(_splits(found))
    sizes = tuple(_sizes(found, names))
    slots = tuple(_slots(graph, found, names))
    for slot in slots:
        _check_slot(graph, slot, ignored)
    _check_heads(graph.model, slots)
    units = _units(channels, pairs, (*slots, *splits))
    if len(units) < 2:
        raise _StaysWholeError("its channels can only leave all together")
    whole = Group(name, name, channels, slots, units, sizes)
    reach = np.stack([whole.layer_units(slot) for slot in slots], axis=1)
    kinds: dict[bytes, list[Ints]] = {}
    for unit, row in zip(units, reach, strict=True):
        kinds.setdefault(row.tobytes(), []).append(unit)
    if len(kinds) == 1:
        yield whole
        return
    for number, alike in enumerate(kinds.values()):
        yield Group(f"{name}[{number}]", name, channels, slots, tuple(alike), sizes)


def _slots(graph: Any, found: Sequence[Reached], names: Mapping[Any, str]) -> Iterator[Slot]:
    for item in found:
        layer = item.node.module
        channels, roots = list(item.roots), list(item.roots.values())
        if isinstance(layer, nn.Parameter):
            name = graph._param_to_name[layer]
        elif layer in names:
            name = names[layer]
        else:  # an operation without weights
            continue
        if any(root is None for root in roots):
            raise _StaysWholeError(f"the channels of '{name}' cannot be followed back")
        out = graph.is_out_channel_pruning_fn(item.handler)
        width = graph.get_out_channels(layer) if out else graph.get_in_channels(layer)
        if width is None:  # one weight for all channels, as PReLU may have
            continue
        both = out and graph.is_in_channel_pruning_fn(item.handler)
        if is_by_groups(layer):
            number = width // layer.groups
            channels, roots = outputs_of(layer, channels), np.repeat(roots, number).tolist()
        yield Slot(
            name,
            layer,
            "both" if both else "out" if out else "in",
            int(width),
            np.asarray(channels, dtype=np.int64),
            np.asarray(roots, dtype=np.int64),
        )


def _splits(found: Sequence[Reached]) -> Iterator[Slot]:
    """The splits of the group whose parts must stay equal."""
    for item in found:
        split = split_of_node(item.node)
        if split is None or split.is_free:
            continue
        if not split.is_followed:
            raise _StaysWholeError("its channels go through a split that cannot be followed")
        yield Slot(
            "a split",
            item.node.module,
            "both",
            sum(split.sizes),
            np.array(list(item.roots), dtype=np.int64),
            np.array(list(item.roots.values()), dtype=np.int64),
        )


def _sizes(found: Sequence[Reached], names: Mapping[Any, str]) -> Iterator[Sizes]:
    """The attributes that hold the sizes of the group's splits."""
    for item in found:
        split = split_of_node(item.node)
        if split is not None and split.attribute is not None:
            yield Sizes(
                names[split.owner],
                split.attribute,
                split.sizes,
                np.array(list(item.roots), dtype=np.int64),
                np.array(list(item.roots.values()), dtype=np.int64),
            )


def _check_slot(graph: Any, slot: Slot, ignored: Collection[str]) -> None:
    """Raise if ``slot`` forbids that its group is pruned."""
    layer = slot.module
    if slot.channels.max() >= slot.width:
        raise _StaysWholeError(
            f"its channels cannot be followed to '{slot.name}', "
            f"which has {slot.width} but would need {slot.channels.max() + 1}"
        )
    if isinstance(layer, nn.MultiheadAttention):
        raise _StaysWholeError(f"the width of attention '{slot.name}' is tied to its heads")
    if slot.side == "in" or not isinstance(layer, (nn.modules.conv._ConvNd, nn.Linear)):
        return
    if slot.name in ignored:
        raise _StaysWholeError(f"'{slot.name}' is ignored")
    if not graph.module2node[layer].outputs:
        raise _StaysWholeError(f"'{slot.name}' is an output of the network")


def _check_heads(module: nn.Module, slots: Sequence[Slot]) -> None:
    """Raise for queries, keys and values: their width is heads times head width."""
    parents = {
        slot.name.rpartition(".")[0]
        for slot in slots
        if isinstance(slot.module, (nn.modules.conv._ConvNd, nn.Linear))
    }
    if len(parents) == 1:
        parent = parents.pop()
        if parent and hasattr(module.get_submodule(parent), "num_heads"):
            raise _StaysWholeError(f"the widths inside attention '{parent}' are tied to its heads")


def _blocks(slot: Slot) -> int:
    """Equal blocks of channels that the layer demands; 1 where it demands none."""
    layer = slot.module
    if hasattr(layer, "split_sizes"):
        return len(layer.split_sizes)
    if isinstance(layer, nn.GroupNorm):
        return int(layer.num_groups)
    if isinstance(layer, nn.modules.conv._ConvNd) and slot.side != "both":
        return int(layer.groups)
    return 1


def _units(
    channels: int, pairs: Sequence[tuple[int, int]], slots: Sequence[Slot]
) -> tuple[Ints, ...]:
    component = np.arange(channels)
    for first, second in chain(pairs, *map(_block_couplings, slots)):
        a, b = component[first], component[second]
        if a != b:
            component[component == max(a, b)] = min(a, b)
    return tuple(np.flatnonzero(component == label) for label in np.unique(component))


def _block_couplings(slot: Slot) -> Iterator[tuple[int, int]]:
    """Pairs of root channels at the same place of two blocks: blocks must stay equally wide."""
    blocks = _blocks(slot)
    if blocks == 1:
        return
    if sorted(slot.channels.tolist()) != list(range(slot.width)):
        raise _StaysWholeError(f"it feeds only a part of the {blocks} blocks of '{slot.name}'")
    first, *others = slot.roots[np.argsort(slot.channels)].reshape(blocks, -1).tolist()
    for other in others:
        yield from zip(first, other, strict=True)
