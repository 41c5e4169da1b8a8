"""Amounts that are predicted from widths against those of graphs that have these widths."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from exported_network import SHAPE, Exported
from networks import KINDS, Net, lively
from torch import nn

from edgevision.errors import ModelError
from edgevision.export import export_onnx, load_onnx, save_onnx
from edgevision.export.narrow import narrow_onnx
from edgevision.latency import WidthShapes, narrows_in_place, sample_widths
from edgevision.latency.shapes import NO_DIM, dimensions, layers_of
from edgevision.pruning.cost import Width
from edgevision.types import TensorSpec


def shapes_of(exported: Exported) -> WidthShapes:
    return WidthShapes(load_onnx(exported.path), exported.cost, exported.bounds)


def counted(model: onnx.ModelProto) -> dict[str, float]:
    """Amounts by kind, read off a graph's own shapes."""
    sizes = dimensions(model)
    names = sorted(sizes)
    found: Counter[str] = Counter()
    numbers = {place: index for index, place in enumerate(names)}
    layers = layers_of(model, numbers, np.ones(len(names), dtype=np.bool_))
    for term in [term for layer in layers for term in layer.terms]:
        second = 1 if term.second == NO_DIM else sizes[names[term.second]]
        found[term.kind] += sizes[names[term.first]] * second
    return dict(found)


def run(model: onnx.ModelProto, path: Path) -> Any:
    save_onnx(model, path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": np.zeros((2, *SHAPE), np.float32)})[0]


def test_amounts_are_those_of_the_narrowed_graph(exported: Exported, tmp_path: Path) -> None:
    shapes = shapes_of(exported)
    rows = sample_widths(list(exported.allowed.values()), 6, seed=3)
    for row, amounts in zip(rows, shapes.amounts(rows), strict=True):
        model = shapes.narrowed(dict(zip(shapes.groups, row.tolist(), strict=True)))
        assert run(model, tmp_path / "narrow.onnx").shape == (2, 5)
        of_graph = counted(model)
        # What no width changes is no term, so that a kind may be more in the graph by a constant.
        whole = counted(load_onnx(exported.path))
        constant = {
            kind: whole[kind] - value
            for kind, value in zip(
                shapes.kinds, shapes.amounts(shapes.units[None])[0].tolist(), strict=True
            )
        }
        for kind, amount in zip(shapes.kinds, amounts.tolist(), strict=True):
            assert amount + constant[kind] == pytest.approx(of_graph[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_narrowing_takes_out_what_pruning_counts(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Net(3, ((kind, 16), ("conv", 12)))
    lively(module)
    exported = Exported(tmp_path, module)
    model = load_onnx(exported.path)
    image = np.zeros((1, *SHAPE), np.float32)
    in_place = narrows_in_place(model, exported.cost, exported.bounds, image)
    assert in_place == (kind not in ("multiplier", "mixed")), "sizes stand in the graph"
    narrow = None if in_place else exported.anew
    shapes = WidthShapes(model, exported.cost, exported.bounds, narrow)
    for row in sample_widths(list(exported.allowed.values()), 4, seed=1)[1:]:
        kept = dict(zip(shapes.groups, row.tolist(), strict=True))
        model = shapes.narrowed(kept)
        assert run(model, tmp_path / "narrow.onnx").shape == (2, 5)
        assert macs(model) == pytest.approx(exported.cost.macs(kept), rel=1e-6)


def macs(model: onnx.ModelProto) -> int:
    """Of convolutions and linear layers: elements of the weight times places of the output."""
    sizes = dimensions(onnx.shape_inference.infer_shapes(model))
    total = 0
    weights = {tensor.name: int(np.prod(tensor.dims)) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            places = 1
            for axis in (2, 3):
                places *= sizes.get((node.output[0], axis), 1)
            total += weights[node.input[1]] * places
    return total


def test_channels_above_a_tile_are_rounded_up_to_it(exported: Exported) -> None:
    shapes = shapes_of(exported)
    whole = shapes.units[None]
    assert (shapes.amounts(whole, 8) >= shapes.amounts(whole)).all()
    narrow = np.array([[widths[-1] for widths in exported.allowed.values()]])
    assert (shapes.amounts(narrow, 8) <= shapes.amounts(whole, 8)).all()


def test_a_weight_of_another_shape_is_told(exported: Exported) -> None:
    model = load_onnx(exported.path)
    name = next(t.name for t in model.graph.initializer if t.name.endswith("blocks.0.0.weight"))
    layer = name.removesuffix(".weight")
    with pytest.raises(ModelError, match="expected 999 on axis 0"):
        narrow_onnx(model, {layer: Width((9, 999), None)})


def test_dilation_and_unusual_padding_are_kinds_of_their_own(tmp_path: Path) -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Conv2d(8, 8, 3, padding=4, dilation=4),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8),
        nn.Conv2d(8, 8, 3),
        nn.Conv2d(8, 8, 1),
    )
    path = tmp_path / "dilated.onnx"
    spec = TensorSpec("image", ("batch", *SHAPE))
    export_onnx(module.eval(), path, input_spec=spec, output_names=["logits"])
    model = load_onnx(path)
    sizes = sorted(dimensions(model))
    numbers = {place: index for index, place in enumerate(sizes)}
    layers = layers_of(model, numbers, np.ones(len(sizes), dtype=np.bool_))
    assert [layer.kind for layer in layers] == [
        "Conv 256 3x3/1",
        "Conv 256 3x3/1 dilation 4x4",
        "Conv 256 3x3/1 dilation 2x2 depthwise",
        "Conv 196 3x3/1 padding 0-0-0-0",
        "Conv 196 1x1/1",
    ]
    assert [layer.dilation for layer in layers[:3]] == [(1, 1), (4, 4), (2, 2)]
    assert [layer.padding for layer in layers] == ["", "", "", "0-0-0-0", ""]


def test_samples_begin_with_the_whole_network_and_stay_among_the_allowed() -> None:
    allowed = [(16, 12, 8), (64, 32), (9,)]
    rows = sample_widths(allowed, 20, seed=0)
    assert rows[0].tolist() == [16, 64, 9]
    assert all(set(rows[:, i]) <= set(widths) for i, widths in enumerate(allowed))
    assert (rows == sample_widths(allowed, 20, seed=0)).all()
    assert len({tuple(row) for row in rows.tolist()}) > 4
