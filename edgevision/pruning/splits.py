"""Splits of channels: the sizes of their parts, and the attributes that hold these sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Split:
    """The parts of one split, and where the network has their sizes from.

    ``attribute`` of ``owner`` holds them: the list of all of them, so that each part may be
    narrowed by itself, or one number that all parts share. Without it the number of parts is what
    is fixed, as in ``chunk``, and they have to stay equal.
    """

    sizes: tuple[int, ...]
    owner: nn.Module | None = None
    attribute: str | None = None

    @property
    def is_free(self) -> bool:
        """Whether each part may have a size of its own."""
        return self.attribute is not None and isinstance(
            getattr(self.owner, self.attribute), (list, tuple)
        )

    @property
    def is_followed(self) -> bool:
        """Whether a narrower split is known to work: the parts are free, or equal."""
        return self.is_free or len(set(self.sizes)) == 1


def split_of(result: Sequence[Any], asked: Any, owner: nn.Module | None) -> Split:
    """What a call of ``split`` or ``chunk`` over the channels did.

    Args:
        result: the parts.
        asked: second argument of the call.
        owner: the module in whose forward it happens.
    """
    sizes = tuple(int(part.shape[1]) for part in result)
    attributes = vars(owner) if owner is not None else {}
    for name, value in attributes.items():
        if isinstance(value, (list, tuple)) and (value is asked or tuple(value) == sizes):
            return Split(sizes, owner, name)
    if len(set(sizes)) == 1:
        for name, value in attributes.items():
            if type(value) is int and value == sizes[0] and asked != len(sizes):
                return Split(sizes, owner, name)
    return Split(sizes)


def split_of_node(node: Any) -> Split | None:
    """What is known of ``node`` if it is a split: without parts if it cannot be followed."""
    if type(node.module).__name__ != "_SplitOp":
        return None
    found: Split = getattr(node.module, "followed", Split(()))
    return found


def follow(node: Any, split: Split) -> None:
    """Put the readers of a split in the order of its parts, as the graph takes them to be."""
    reads = {
        (part, reader)
        for reader in node.outputs
        for origin, part in reader.grad_fn.next_functions
        if origin is node.grad_fn
    }
    if sorted(part for part, _ in reads) != list(range(len(split.sizes))):
        return  # a part that nobody reads, or several
    by_part = dict(reads)
    node.outputs = [by_part[part] for part in range(len(split.sizes))]
    node.module.split_sizes = list(split.sizes)
    node.module.followed = split
    node.module.offsets = [0, *accumulate(split.sizes)]
