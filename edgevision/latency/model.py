"""Predicts a network's time from its widths: non-negative least squares over measured networks.

time = fixed + sum over kinds of (coefficient x amount). Coefficients cannot be negative, so a
narrower network is never predicted slower. The tile that channel counts are rounded up to, which
differs by library, precision and processor, is the one that predicts networks left out best.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgevision.errors import ModelError
from edgevision.latency.shapes import Float64, Ints, WidthShapes
from edgevision.lazy import require

Solve = Callable[[Float64, Float64], Float64]

TILES = (1, 4, 8, 16, 32)
_FOLDS = 5
_FEWEST = 2 * _FOLDS


@dataclass(frozen=True)
class LatencyModel:
    """Time of a network at any widths of its groups.

    Attributes:
        shapes: of the network.
        tile: multiple that channel counts above it are rounded up to.
        fixed_ms: what the network takes whatever its widths.
        coefficients: (kinds,) milliseconds for each amount of ``shapes.kinds``.
        error: mean relative error over measured networks, each predicted by a fit without it.
        worst: the largest of them.
        measured: number of networks behind the fit.
        left_out: (measured,) milliseconds of each by the fit without it, in the order measured.
    """

    shapes: WidthShapes
    tile: int
    fixed_ms: float
    coefficients: Float64
    error: float
    worst: float
    measured: int
    left_out: Float64

    def milliseconds(self, kept: Ints) -> Float64:
        """float64 (B,): for (B, groups) units kept, groups in the order of ``shapes.groups``."""
        times: Float64 = self.fixed_ms + self.shapes.amounts(kept, self.tile) @ self.coefficients
        return times

    def of(self, kept: Mapping[str, int]) -> float:
        """Milliseconds for one choice by group name; groups left out are whole."""
        row = np.array([list(self.shapes.complete(kept).values())], dtype=np.int64)
        return float(self.milliseconds(row)[0])

    def time_in(self, layers: Sequence[int], kept: Ints) -> Float64:
        """float64 (B,): the part of ``milliseconds`` that some layers take, as far as widths move.

        Args:
            layers: their positions in ``shapes.layers``.
            kept: (B, groups) units kept.
        """
        inside = np.isin(self.shapes.layer_of_term, layers)
        rates = self.coefficients[self.shapes.kind_of_term][inside]
        times: Float64 = rates @ self.shapes.products(kept, self.tile)[inside]
        return times

    def by_layer(self) -> dict[str, float]:
        """Milliseconds of each layer of the whole network, as far as widths move them."""
        rates = self.coefficients[self.shapes.kind_of_term]
        times = self.shapes.products(self.shapes.units[None], self.tile)[:, 0] * rates
        found: dict[str, float] = {}
        for number, milliseconds in zip(self.shapes.layer_of_term, times.tolist(), strict=True):
            name = self.shapes.layers[number].name
            found[name] = found.get(name, 0.0) + milliseconds
        return found


def fit_latency(shapes: WidthShapes, kept: Ints, milliseconds: Float64) -> LatencyModel:
    """Fit to (B, groups) units kept and the (B,) times measured.

    Raises:
        ModelError: fewer networks than can be left out in turn, or a time that is not above zero.
    """
    if len(kept) < _FEWEST:
        raise ModelError(f"Expected at least {_FEWEST} measured networks, got {len(kept)}.")
    if not (np.isfinite(milliseconds).all() and (milliseconds > 0).all()):
        raise ModelError("Expected times above zero.")
    solve = _solver()
    left_out = {tile: _left_out(shapes.amounts(kept, tile), milliseconds, solve) for tile in TILES}
    errors = {tile: np.abs(found / milliseconds - 1.0) for tile, found in left_out.items()}
    tile = min(TILES, key=lambda t: float(errors[t].mean()))
    fixed, coefficients = _fit(shapes.amounts(kept, tile), milliseconds, solve)
    return LatencyModel(
        shapes=shapes,
        tile=tile,
        fixed_ms=fixed,
        coefficients=coefficients,
        error=float(errors[tile].mean()),
        worst=float(errors[tile].max()),
        measured=len(kept),
        left_out=left_out[tile],
    )


def relative_errors(model: LatencyModel, kept: Ints, milliseconds: Sequence[float]) -> Float64:
    """float64 (B,): |predicted / measured - 1|."""
    found: Float64 = np.abs(model.milliseconds(kept) / np.asarray(milliseconds) - 1.0)
    return found


def _solver() -> Solve:
    nnls = require("scipy.optimize").nnls
    return lambda matrix, wanted: np.asarray(nnls(matrix, wanted)[0], dtype=np.float64)


def _fit(amounts: Float64, times: Float64, solve: Solve) -> tuple[float, Float64]:
    """Fixed part and coefficients that minimise the squared relative error."""
    columns = np.hstack([np.ones((len(amounts), 1)), amounts])
    size = np.maximum(columns.mean(axis=0), 1e-12)
    found = solve(columns / size / times[:, None], np.ones(len(times))) / size
    return float(found[0]), found[1:]


def _left_out(amounts: Float64, times: Float64, solve: Solve) -> Float64:
    """Milliseconds of each network, by a fit to the other folds."""
    predicted = np.zeros(len(times))
    folds = np.arange(len(times)) % _FOLDS
    for fold in range(_FOLDS):
        inside = folds != fold
        fixed, coefficients = _fit(amounts[inside], times[inside], solve)
        predicted[~inside] = fixed + amounts[~inside] @ coefficients
    return predicted
