"""Heat maps: milliseconds of one kind of layer over the channels that it reads and gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from edgevision.latency.shapes import NO_DIM, Layer, WidthShapes

_STEPS = 10  # values along an axis
_FINE = 4


@dataclass(frozen=True)
class Grid:
    """Channel counts of one kind of layer, up to those of ``layer``.

    Attributes:
        outs: given, rising.
        sources: read, rising; none for a depthwise layer, which reads as many as it gives.
    """

    layer: Layer
    outs: tuple[int, ...]
    sources: tuple[int, ...]

    def pairs(self) -> list[list[tuple[int, int]]]:
        """(out, source) of each cell, a row for each of ``sources``."""
        if not self.sources:
            return [[(out, out) for out in self.outs]]
        return [[(out, source) for out in self.outs] for source in self.sources]


@dataclass(frozen=True)
class HeatMap:
    """The times of a grid.

    Attributes:
        kind: as ``Layer.kind``.
        layer: name of the layer that the grid ends at.
        outs, sources: as in ``Grid``.
        milliseconds: a row for each of ``sources``, a column for each of ``outs``.
        kept: cells that an earlier run measured.
        oldest: when the oldest cell was measured; None for an estimate.
    """

    kind: str
    layer: str
    outs: tuple[int, ...]
    sources: tuple[int, ...]
    milliseconds: tuple[tuple[float, ...], ...]
    kept: int = 0
    oldest: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def grids_of(
    shapes: WidthShapes,
    by_layer: Mapping[str, float],
    suits: Callable[[Layer], bool],
    most: int,
) -> list[Grid]:
    """The kinds of layers that weigh most, each by its widest layer; the heaviest first.

    What weighs is a kind's share of the time or of the multiplications, whichever is larger: kinds
    that always widen together share their time as a fit found best, so that one of them may seem
    to take none.

    Args:
        by_layer: milliseconds of each layer.
        suits: whether a layer's kind can be shown.
        most: kinds, at most.
    """
    whole = shapes.channels(shapes.units[None])[0]
    layers: dict[str, list[Layer]] = {}
    for layer in shapes.layers:
        moves = shapes.moves[layer.out] or (layer.source != NO_DIM and shapes.moves[layer.source])
        if moves and layer.weighted and layer.name in by_layer and suits(layer):
            layers.setdefault(layer.kind, []).append(layer)

    def work(layer: Layer) -> float:
        reads = 1.0 if layer.source == NO_DIM else whole[layer.source] / layer.groups
        return float(whole[layer.out] * reads * prod(layer.kernel) * layer.places)

    weights = [
        {kind: sum(map(of, found)) for kind, found in layers.items()}
        for of in (lambda layer: by_layer[layer.name], work)
    ]
    totals = [sum(weight.values()) or 1.0 for weight in weights]
    order = sorted(
        layers,
        key=lambda kind: -max(w[kind] / total for w, total in zip(weights, totals, strict=True)),
    )

    def axis(dim: int) -> tuple[int, ...]:
        channels = round(float(whole[dim]))
        return axis_of(channels) if shapes.moves[dim] else (channels,)

    grids = []
    for kind in order[:most]:
        layer = max(layers[kind], key=work)
        sources = () if layer.source == NO_DIM else axis(layer.source)
        grids.append(Grid(layer, axis(layer.out), sources))
    return grids


def axis_of(channels: int) -> tuple[int, ...]:
    """Channel counts up to ``channels``, in even steps that show tiles of 8 and more.

    A wide step is an odd multiple of 4: a power of two would land on the tiles alone, and hide
    what lies between them.
    """
    step = max(1, channels // _STEPS)
    if step > _FINE // 2:
        step = _FINE * max(1, 2 * round((step / _FINE - 1) / 2) + 1)
    return tuple(range(channels, 0, -step)[:_STEPS][::-1])
