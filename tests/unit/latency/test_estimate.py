"""The roofline: by hand on one layer, over widths, and where it is refused."""

from __future__ import annotations

import numpy as np
import pytest
from exported_network import Exported

from edgevision.errors import UnavailableError, UsageError
from edgevision.export import load_onnx
from edgevision.latency import WidthShapes, sample_widths
from edgevision.latency.cells import shape_of
from edgevision.latency.curves import group_curves
from edgevision.latency.estimate import LatencyEstimate, estimate_latency
from edgevision.latency.grid import Grid, grids_of
from edgevision.latency.shapes import Layer
from edgevision.targets import load_target


@pytest.fixture
def shapes(exported: Exported) -> WidthShapes:
    return WidthShapes(load_onnx(exported.path), exported.cost, exported.bounds)


def test_a_layer_takes_the_longer_of_its_macs_and_its_bytes() -> None:
    layer = Layer("conv", "Conv 100 3x3/1", "Conv", 100, 100, (3, 3), 1, 1, 0, 1, True)
    grid = Grid(layer, (16, 20), (32,))
    macs = 16 * 32 * 9 * 100
    moved = 16 * 32 * 9 + 16 * 100 + 32 * 100

    def at(macs_per_second: float, bytes_per_second: float, width: int) -> list[float]:
        model = LatencyEstimate(None, 16, macs_per_second, bytes_per_second, width)  # type: ignore[arg-type]
        return list(model.heat_map(grid).milliseconds[0])

    assert at(1e9, 1e15, 1)[0] == pytest.approx(1e3 * macs / 1e9)
    assert at(1e15, 1e6, 2)[0] == pytest.approx(1e3 * 2 * moved / 1e6)
    assert at(1e9, 1e15, 1)[1] == pytest.approx(2 * at(1e9, 1e15, 1)[0]), "20 cost as much as 32"


def test_macs_of_the_network_are_those_that_pruning_counts(
    shapes: WidthShapes, exported: Exported
) -> None:
    """With bytes free and no tile, time is MACs over peak, at any widths."""
    model = LatencyEstimate(shapes, 1, 1e9, 1e30, 1)
    rows = sample_widths(list(exported.allowed.values()), 6, seed=1)
    macs = [exported.cost.macs(dict(zip(shapes.groups, row, strict=True))) for row in rows.tolist()]
    assert model.milliseconds(rows) == pytest.approx(np.array(macs) / 1e6, rel=1e-6)


def test_it_has_the_interface_of_the_measured_model(
    shapes: WidthShapes, exported: Exported
) -> None:
    target = load_target("jetson-orin-nano")
    model = estimate_latency(shapes, target, "int8")
    assert model.tile == target.round_to
    assert sum(model.by_layer().values()) == pytest.approx(model.of({}))
    curves = group_curves(model, exported.allowed)
    assert {curve.name for curve in curves} == set(exported.allowed)
    for curve in curves:
        assert curve.milliseconds[0] == pytest.approx(model.of({}))
        assert sum(curve.steps) == pytest.approx(curve.saved)
        assert min(curve.steps) >= 0, "a narrower network is never slower"
    assert [c.saved for c in curves] == sorted((c.saved for c in curves), reverse=True)
    slower = estimate_latency(shapes, target, "fp16")
    assert slower.of({}) > model.of({})


def test_grids_are_those_of_the_heaviest_kinds(shapes: WidthShapes, exported: Exported) -> None:
    model = estimate_latency(shapes, load_target("jetson-orin-nano"), "int8")
    by_layer = model.by_layer()
    grids = grids_of(shapes, by_layer, lambda layer: shape_of(layer) is not None, 2)
    assert len(grids) == 2
    whole = shapes.channels(shapes.units[None])[0]
    for grid in grids:
        assert grid.outs[-1] == whole[grid.layer.out]
        assert len(grid.outs) > 1 or len(grid.sources) > 1, "what no width moves has no map"
    # A layer that seems to take all the time comes first, however little it multiplies.
    last = grids_of(shapes, by_layer, lambda layer: shape_of(layer) is not None, 99)[-1].layer
    skewed = {name: float(name == last.name) for name in by_layer}
    assert grids_of(shapes, skewed, lambda layer: True, 1)[0].layer.kind == last.kind


def test_what_is_not_known_is_not_estimated(shapes: WidthShapes) -> None:
    with pytest.raises(UnavailableError, match="does not say how fast it is") as caught:
        estimate_latency(shapes, load_target("rtx"), "int8")
    assert "peak" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="int8, fp16, fp32, not of bf16"):
        estimate_latency(shapes, load_target("jetson-orin-nano"), "bf16")
