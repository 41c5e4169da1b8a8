"""The fit on times that are known, and on real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from exported_network import SHAPE, Exported

from edgevision.backends import get_backend
from edgevision.errors import ModelError
from edgevision.export import load_onnx
from edgevision.latency import (
    WidthShapes,
    fit_latency,
    measure_widths,
    relative_errors,
    sample_widths,
)


@pytest.fixture
def shapes(exported: Exported) -> WidthShapes:
    return WidthShapes(load_onnx(exported.path), exported.cost, exported.bounds)


@pytest.mark.parametrize("tile", [1, 8])
def test_times_made_of_amounts_are_predicted_and_their_tile_found(
    shapes: WidthShapes, exported: Exported, tile: int
) -> None:
    rows = sample_widths(list(exported.allowed.values()), 120, seed=1)
    rates = np.random.default_rng(0).uniform(0, 1e-4, len(shapes.kinds))
    times = 0.05 + shapes.amounts(rows, tile) @ rates
    model = fit_latency(shapes, rows[:80], times[:80])
    assert model.tile == tile
    assert relative_errors(model, rows[80:], times[80:].tolist()).mean() < 1e-3
    assert model.error < 0.02
    assert model.of({}) == pytest.approx(times[0], rel=0.01)
    widest, narrowest = rows.max(axis=0), rows.min(axis=0)
    assert model.milliseconds(narrowest[None])[0] <= model.milliseconds(widest[None])[0]


def test_errors_are_of_networks_that_the_fit_has_not_seen(
    shapes: WidthShapes, exported: Exported
) -> None:
    """Times of pure noise cannot be predicted, and the model says so."""
    rows = sample_widths(list(exported.allowed.values()), 40, seed=1)
    noise = np.random.default_rng(0).uniform(1, 3, len(rows))
    assert fit_latency(shapes, rows, noise).error > 0.2


def test_too_few_networks_or_times_that_are_none(shapes: WidthShapes, exported: Exported) -> None:
    rows = sample_widths(list(exported.allowed.values()), 12, seed=1)
    with pytest.raises(ModelError, match="at least 10 measured networks, got 5"):
        fit_latency(shapes, rows[:5], np.ones(5))
    with pytest.raises(ModelError, match="above zero"):
        fit_latency(shapes, rows, np.zeros(12))


def test_real_networks_are_measured_and_nothing_is_left_behind(
    shapes: WidthShapes, exported: Exported, tmp_path: Path
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    rows = sample_widths(list(exported.allowed.values()), 10, seed=1)
    told = []
    times = measure_widths(
        shapes,
        rows,
        get_backend("onnxruntime"),
        {"image": np.zeros((1, *SHAPE), np.float32)},
        folder,
        threads=1,
        seconds=1.0,
        progress=lambda phase, done, total: told.append((phase, done, total)),
    )
    assert times.shape == (10,)
    assert (times > 0).all()
    assert (times < 1000).all()
    assert list(folder.iterdir()) == []
    assert told[-1][1:] == (100, 100)
    assert fit_latency(shapes, rows, times).measured == 10
