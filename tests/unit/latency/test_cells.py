"""Single layers: their graphs, the grid they are timed on, and what is measured again."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from edgevision.backends import get_backend
from edgevision.export.graph import attribute
from edgevision.latency import KeptCells, cells, place_of
from edgevision.latency.cells import LayerShape, between_integers, cell_model, measure_map, shape_of
from edgevision.latency.grid import Grid, axis_of
from edgevision.latency.measure import quantize_narrowed
from edgevision.latency.shapes import NO_DIM, Layer
from edgevision.quantization import calibrate

CONV = Layer("features.1", "Conv 16 3x3/2", "Conv", 16, 64, (3, 3), 2, 1, 0, 1, True)
DEPTHWISE = Layer(
    "features.2", "Conv 64 3x3/1 depthwise", "Conv", 64, 64, (3, 3), 1, 8, 0, NO_DIM, True
)
DILATED = CONV._replace(kind="Conv 64 3x3/1 dilation 4x4", places=64, stride=1, dilation=(4, 4))
TOKENS = Layer("mixer.1", "MatMul 9 1/1", "MatMul", 9, 9, (), 1, 1, 0, 1, True)
HEAD = Layer("head", "Gemm 1 1/1", "Gemm", 1, 1, (), 1, 1, 0, 1, True)


@pytest.mark.parametrize(
    ("layer", "input_shape", "output_shape"),
    [
        (CONV, (1, 4, 8, 8), (1, 6, 4, 4)),
        (DEPTHWISE, (1, 6, 8, 8), (1, 6, 8, 8)),
        (DILATED, (1, 4, 8, 8), (1, 6, 8, 8)),
        (TOKENS, (1, 9, 4), (1, 9, 6)),
        (HEAD, (1, 4), (1, 6)),
    ],
)
@pytest.mark.parametrize("scheme", [None, "x86-vnni"])
def test_a_cell_is_the_layer_alone(
    layer: Layer,
    input_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    scheme: str | None,
    tmp_path: Path,
) -> None:
    shape = shape_of(layer)
    assert shape is not None
    path = tmp_path / "float.onnx"
    onnx.save(cell_model(shape, 6, input_shape[1 if layer.operator == "Conv" else -1]), path)
    feed = np.random.default_rng(0).normal(size=input_shape).astype(np.float32)
    if scheme is not None:
        narrow, path = path, tmp_path / "int8.onnx"
        quantize_narrowed(calibrate(narrow, [feed], threads=1), scheme, narrow, path)
        feed = between_integers(path, feed)
        assert feed.dtype == np.uint8
        operators = [node.op_type for node in onnx.load(path).graph.node]
        assert operators.count("QuantizeLinear") <= 1, "only that of the output"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"x": feed})
    assert output.shape == output_shape


def test_layers_without_cells() -> None:
    assert shape_of(CONV._replace(groups=2, kind="Conv 16 3x3/2 groups 2")) is None
    assert shape_of(CONV._replace(operator="ConvTranspose")) is None
    assert shape_of(CONV._replace(read=60)) is None, "not square"
    assert shape_of(CONV._replace(padding="0-0-0-0")) is None, "a cell is padded as usual"


def test_cells_are_named_by_all_that_decides_their_time() -> None:
    shape = LayerShape("Conv", (8, 8), (3, 3), 2, False)
    assert shape.cell(6, 4) == "Conv 8x8 3x3/2 4>6"
    assert LayerShape("Conv", (8, 8), (3, 3), 1, False, (4, 4)).cell(6, 4) == (
        "Conv 8x8 3x3/1 dilation 4x4 4>6"
    )
    shape = shape_of(DILATED)
    assert shape is not None
    (node,) = cell_model(shape, 6, 4).graph.node
    assert attribute(node, "dilations") == [4, 4]
    assert attribute(node, "pads") == [4, 4, 4, 4]
    assert shape_of(DEPTHWISE) == LayerShape("Conv", (8, 8), (3, 3), 1, True)


@pytest.mark.parametrize("channels", [1, 3, 16, 24, 32, 96, 160, 512, 1280])
def test_an_axis_rises_to_the_layers_own_width_off_the_tiles(channels: int) -> None:
    axis = axis_of(channels)
    assert axis[-1] == channels
    assert len(axis) <= 10
    assert min(axis) > 0
    steps = {after - before for before, after in itertools.pairwise(axis)}
    assert len(steps) <= 1
    if channels > 96:
        assert (steps.pop() // 4) % 2 == 1, "an odd multiple of 4"


@pytest.mark.parametrize("scheme", [None, "x86-vnni"])
def test_a_map_is_measured_once_and_a_killed_one_carries_on(
    scheme: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "_SECONDS", 0.001)
    backend = get_backend("onnxruntime")
    table = KeptCells(place_of(backend, 1), scheme or "fp32", tmp_path / "cache")
    work = tmp_path / "work"
    work.mkdir()

    def measure(outs: tuple[int, ...], fresh: bool = False) -> cells.HeatMap:
        found = measure_map(
            Grid(CONV, outs, (2, 4)), backend, work, table, scheme=scheme, threads=1, fresh=fresh
        )
        assert found is not None
        return found

    first = measure((4, 6))
    assert first.kept == 0
    assert np.array(first.milliseconds).shape == (2, 2)
    assert np.array(first.milliseconds).min() > 0
    assert list(work.iterdir()) == []
    wider = measure((4, 6, 8))
    assert wider.kept == 4
    assert [row[:2] for row in wider.milliseconds] == list(first.milliseconds)
    assert measure((4, 6)) == cells.HeatMap(
        first.kind, first.layer, first.outs, first.sources, first.milliseconds, 4, first.oldest
    )
    assert measure((4, 6), fresh=True).kept == 0

    # Parts that were timed before it is killed stay.
    monkeypatch.setattr(cells, "_AT_ONCE", 1)
    real, calls = cells._timed, []

    def killed(*arguments: object) -> dict[str, float]:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(cells, "_timed", killed)
    with pytest.raises(KeyboardInterrupt):
        measure((10, 12))
    monkeypatch.setattr(cells, "_timed", real)
    assert measure((10, 12)).kept == 1
