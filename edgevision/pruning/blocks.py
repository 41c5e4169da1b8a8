"""Blocks that may leave a network whole: what comes in then goes on as it is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from edgevision.errors import ModelError
from edgevision.pruning.whole import copied, output_shapes

_WEIGHTED = (nn.modules.conv._ConvNd, nn.Linear)
_FEWEST = 2  # weighted layers; narrowing already has its say on a single one


@dataclass(frozen=True)
class Block:
    """A module inside a network that gives what it takes: one tensor of the same shape and dtype.

    Attributes:
        name: of the module.
        layers: names of the convolutions and linear layers in it.
        shape: of its output for one image, such as (1, C, H, W) or (1, tokens, C).
    """

    name: str
    layers: frozenset[str]
    shape: tuple[int, ...]

    def overlaps(self, other: Block) -> bool:
        """Whether one of the two is inside the other, or is the other."""
        return bool(self.layers & other.layers)


def find_blocks(
    module: nn.Module, example: torch.Tensor, ignored: Collection[str] = ()
) -> tuple[Block, ...]:
    """The modules of ``module`` without which it still runs, the outer ones first.

    They are told by what they do: called once, with one tensor alone, and nothing but an identity
    in their place leaves all output shapes as they are. Of modules with the same layers the
    outermost counts: inside a residual block that is the block, not the branch.

    Args:
        example: (1, C, H, W).
        ignored: names of layers that no block may hold.

    Raises:
        ModelError: the network cannot be copied.
    """
    work = copied(module).eval()
    shapes = output_shapes(work, example)
    passing = _passing(work, example)
    found: list[Block] = []
    for name, layer in work.named_modules():
        inside = [(f"{name}.{inner}".rstrip("."), part) for inner, part in layer.named_modules()]
        weighted = frozenset(path for path, part in inside if isinstance(part, _WEIGHTED))
        if (
            name not in passing
            or len(weighted) < _FEWEST
            or any(path in ignored for path, _ in inside)
            or any(weighted == block.layers for block in found)
        ):
            continue
        if _runs_without(work, name, example, shapes):
            found.append(Block(name, weighted, passing[name]))
    return tuple(found)


def remove_blocks(module: nn.Module, names: Sequence[str]) -> None:
    """Put identities in the place of the blocks ``names``, in place.

    Raises:
        ModelError: the network lacks one of them; it is unchanged then.
    """
    layers = dict(module.named_modules())
    for name in names:
        if not name or name not in layers:
            raise ModelError(f"There is no block '{name}' to remove.")
    for name in names:
        _put(module, name, nn.Identity().train(layers[name].training))


@contextmanager
def removed(module: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Within the context the blocks ``names`` of ``module`` are identities."""
    layers = {name: module.get_submodule(name) for name in names}
    remove_blocks(module, names)
    try:
        yield
    finally:
        for name, layer in layers.items():
            _put(module, name, layer)


def _put(module: nn.Module, name: str, layer: nn.Module) -> None:
    owner, _, key = name.rpartition(".")
    setattr(module.get_submodule(owner), key, layer)


def _passing(module: nn.Module, example: torch.Tensor) -> dict[str, tuple[int, ...]]:
    """Shapes of what modules give that are called once, by name, where it is what they took."""
    calls: dict[str, list[tuple[int, ...] | None]] = {}

    def noting(name: str) -> Callable[[nn.Module, Any, Any, Any], None]:
        def note(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            same = (
                len(args) == 1
                and not kwargs
                and isinstance(args[0], torch.Tensor)
                and isinstance(output, torch.Tensor)
                and (args[0].shape, args[0].dtype) == (output.shape, output.dtype)
            )
            calls.setdefault(name, []).append(tuple(output.shape) if same else None)

        return note

    hooks = [
        layer.register_forward_hook(noting(name), with_kwargs=True)
        for name, layer in module.named_modules()
        if name
    ]
    try:
        with torch.no_grad():
            module(example)
    finally:
        for hook in hooks:
            hook.remove()
    return {
        name: shapes[0]
        for name, shapes in calls.items()
        if len(shapes) == 1 and shapes[0] is not None
    }


def _runs_without(
    module: nn.Module, name: str, example: torch.Tensor, shapes: list[tuple[int, ...]]
) -> bool:
    """Whether an identity in the block's place is called, and the outputs keep their shapes."""
    with removed(module, [name]):
        try:
            return name in _passing(module, example) and output_shapes(module, example) == shapes
        except Exception:  # noqa: BLE001 - a foreign forward may raise anything
            return False
