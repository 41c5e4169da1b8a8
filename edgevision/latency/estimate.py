"""An estimate of a network's time on a target that is not at hand: a roofline, nothing measured.

Each layer takes as long as its multiplications at the target's peak, or as its bytes at the
memory's bandwidth, whichever is longer (Williams, Waterman and Patterson, "Roofline", 2009). It is
no bound: no launch, no idle unit and no conversion counts, and the peak is that of one module in
one power mode, so real networks mostly take longer, often several times; but every activation
counts as moved, though it may stay in a cache, and an addition as a layer, though it may be fused.
Where time steps and which layers are heavy is what it is good for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from edgevision.errors import UnavailableError, UsageError
from edgevision.latency.grid import Grid, HeatMap
from edgevision.latency.shapes import NO_DIM, Float64, Ints, Layer, WidthShapes, padded
from edgevision.targets import Target
from edgevision.targets.schema import Peak

WORD = "ESTIMATE"
_BYTES = {"int8": 1, "fp16": 2, "fp32": 4}
# Computed inside the layer before them, or no more than another name for the same memory.
_FREE = (
    "Relu", "Clip", "HardSwish", "HardSigmoid", "Sigmoid", "Gelu", "LeakyRelu", "Tanh", "Erf",
    "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity",
)  # fmt: skip


@dataclass(frozen=True)
class LatencyEstimate:
    """Time of a network at any widths of its groups, by the target's data alone.

    Attributes:
        shapes: of the network.
        tile: multiple that channel counts above it are rounded up to: the target's ``round_to``.
        macs_per_second: of the precision.
        bytes_per_second: of the memory.
        width: bytes of a value.
    """

    shapes: WidthShapes
    tile: int
    macs_per_second: float
    bytes_per_second: float
    width: int

    def milliseconds(self, kept: Ints) -> Float64:
        """float64 (B,): for (B, groups) units kept, groups in the order of ``shapes.groups``."""
        times: Float64 = self._layers(kept).sum(axis=0)
        return times

    def of(self, kept: Mapping[str, int]) -> float:
        """Milliseconds for one choice by group name; groups left out are whole."""
        row = np.array([list(self.shapes.complete(kept).values())], dtype=np.int64)
        return float(self.milliseconds(row)[0])

    def by_layer(self) -> dict[str, float]:
        """Milliseconds of each layer of the whole network."""
        times = self._layers(self.shapes.units[None])[:, 0].tolist()
        found: dict[str, float] = {}
        for layer, milliseconds in zip(self.shapes.layers, times, strict=True):
            found[layer.name] = found.get(layer.name, 0.0) + milliseconds
        return found

    def heat_map(self, grid: Grid) -> HeatMap:
        """The times of a grid's layers."""
        rows = [
            tuple(
                float(self._layer(grid.layer, np.array([float(out)]), np.array([float(source)]))[0])
                for out, source in row
            )
            for row in grid.pairs()
        ]
        return HeatMap(grid.layer.kind, grid.layer.name, grid.outs, grid.sources, tuple(rows))

    def _layers(self, kept: Ints) -> Float64:
        dims = self.shapes.channels(kept)
        return np.stack(
            [
                self._layer(
                    layer,
                    dims[:, layer.out],
                    dims[:, layer.out if layer.source == NO_DIM else layer.source],
                )
                for layer in self.shapes.layers
            ]
        )

    def _layer(self, layer: Layer, out: Float64, source: Float64) -> Float64:
        """Milliseconds of one layer, by its channel counts."""
        if layer.operator in _FREE:
            return np.zeros(len(out))
        out, source = padded(out, self.tile), padded(source, self.tile)
        weights = np.zeros(len(out))
        if layer.weighted:
            reads = 1.0 if layer.source == NO_DIM else source / layer.groups
            weights = out * reads * prod(layer.kernel)
        macs = weights * (layer.read if layer.operator == "ConvTranspose" else layer.places)
        moved = weights + out * layer.places + source * layer.read
        seconds = np.maximum(
            macs / self.macs_per_second, moved * self.width / self.bytes_per_second
        )
        return np.asarray(1e3 * seconds, dtype=np.float64)


def require_peak(target: Target, precision: str) -> Peak:
    """The published peak of ``target``, as its description says.

    Raises:
        UnavailableError: it does not say how fast the target is.
        UsageError: nor how fast at ``precision``.
    """
    if target.peak is None:
        raise UnavailableError(
            f"The description of '{target.reference}' does not say how fast it is, so its times "
            "cannot be estimated.",
            hint="A target file of your own may give it, as 'peak'.",
        )
    if precision not in target.peak.macs_per_second:
        known = ", ".join(target.peak.macs_per_second)
        raise UsageError(
            f"The description of '{target.reference}' has the speed of {known}, not of {precision}."
        )
    return target.peak


def estimate_latency(shapes: WidthShapes, target: Target, precision: str) -> LatencyEstimate:
    """The estimate for ``target``; it is no measurement, and who shows it has to say so.

    Raises:
        UnavailableError, UsageError: as :func:`require_peak`.
    """
    peak = require_peak(target, precision)
    return LatencyEstimate(
        shapes=shapes,
        tile=target.round_to,
        macs_per_second=dict(peak.macs_per_second)[precision],
        bytes_per_second=peak.bytes_per_second,
        width=_BYTES[precision],
    )
