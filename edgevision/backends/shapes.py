"""Shapes that an engine accepts: smallest, the one tuned for, largest, for each input by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgevision.errors import UsageError

if TYPE_CHECKING:
    from typing import TypeAlias  # novermin

Shape: TypeAlias = "tuple[int, ...]"


@dataclass(frozen=True)
class InputShapes:
    """Shapes of one input in an optimization profile, e.g. ``(1, 3, 224, 224)`` each."""

    min: Shape
    opt: Shape
    max: Shape

    def __post_init__(self) -> None:
        low, high = self.min, self.max
        if not len(low) == len(self.opt) == len(high) or not all(
            1 <= low[axis] <= size <= high[axis] for axis, size in enumerate(self.opt)
        ):
            shapes = ", ".join(map(shape_text, (self.min, self.opt, self.max)))
            raise UsageError(
                f"shapes must have the same axes and satisfy 1 <= min <= opt <= max on each, "
                f"got {shapes}"
            )


def parse_shapes(
    smallest: str | None, tuned: str | None, largest: str | None
) -> dict[str, InputShapes]:
    """Shapes by input out of texts such as ``images:1x3x224x224,mask:1x224x224``.

    Args:
        smallest, tuned, largest: in trtexec's form; ``smallest`` and ``largest`` name inputs of
            ``tuned``, and an input that they leave out has the tuned shape alone.

    Raises:
        UsageError: a text is of another form, or names an input that ``tuned`` does not.
    """
    low, opt, high = (
        _shapes(text, f"--{kind}-shapes")
        for text, kind in ((smallest, "min"), (tuned, "opt"), (largest, "max"))
    )
    for kind, shapes in (("min", low), ("max", high)):
        for name in shapes.keys() - opt.keys():
            raise UsageError(
                f"--{kind}-shapes names the input '{name}', --opt-shapes does not.",
                hint=f"Say what to tune for: --opt-shapes {name}:{shape_text(shapes[name])}",
            )
    return {
        name: InputShapes(low.get(name, shape), shape, high.get(name, shape))
        for name, shape in opt.items()
    }


def shape_text(shape: Shape) -> str:
    """``(1, 3, 224, 224)`` as ``1x3x224x224``."""
    return "x".join(map(str, shape))


def _shapes(text: str | None, option: str) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    for part in (text or "").split(",") if text else ():
        name, colon, sizes = part.strip().rpartition(":")  # names such as "input:0" hold one too
        axes = sizes.split("x")
        if not (colon and name and all(axis.isascii() and axis.isdigit() for axis in axes)):
            raise UsageError(
                f"{option} takes NAME:AxBxC, separated by commas, got '{part.strip()}'.",
                hint=f"For example: {option} images:1x3x224x224",
            )
        shapes[name] = tuple(int(axis) for axis in axes)
    return shapes
