"""What a table may add to plain calibration: learned weight scales, corrected biases."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from edgevision.errors import ModelError
from edgevision.export import load_onnx, save_onnx
from edgevision.quantization import CalibrationTable, calibrate, emit
from edgevision.quantization.placement import place
from edgevision.quantization.rules.base import Refusal
from edgevision.quantization.schemes import get_scheme

SCHEMES = ("x86-vnni", "tensorrt")


@pytest.fixture
def case(make_model, tmp_path):
    random = np.random.default_rng(0)
    model = make_model(
        "(float[n,3,8,8] x) => (float[n,6,8,8] y) "
        "{ a = Conv <pads=[1,1,1,1]> (x, w1, b1)  r = Relu (a)"
        "  y = Conv <pads=[1,1,1,1]> (r, w2, b2) }",
        w1=random.normal(size=(5, 3, 3, 3)).astype(np.float32),
        b1=random.normal(size=5).astype(np.float32),
        w2=random.normal(size=(6, 5, 3, 3)).astype(np.float32),
        b2=random.normal(size=6).astype(np.float32),
    )
    path = tmp_path / "float.onnx"
    save_onnx(model, path)
    x = random.normal(size=(4, 3, 8, 8)).astype(np.float32)
    return path, x, calibrate(path, [x], method="minmax", threads=1)


def run(path, x):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options).run(None, {"x": x})[0]


def constant(path, name):
    tensors = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    return tensors[name]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_learned_weight_scales_take_the_place_of_the_largest_weight(case, tmp_path, scheme):
    path, _, table = case
    learned = np.linspace(0.01, 0.02, 5, dtype=np.float32)
    emit(path, replace(table, weight_scales={"w1": learned}), scheme, tmp_path / "q.onnx")
    np.testing.assert_array_equal(constant(tmp_path / "q.onnx", "w1_scale"), learned)
    weight = constant(path, "w1")
    integers = np.clip(np.rint(weight / learned.reshape(-1, 1, 1, 1)), -127, 127)
    np.testing.assert_array_equal(constant(tmp_path / "q.onnx", "w1_quantized"), integers)


def test_learned_scales_of_another_shape_are_refused(case, tmp_path):
    path, _, table = case
    wrong = replace(table, weight_scales={"w1": np.ones(4, np.float32)})
    with pytest.raises(ModelError, match=r"shape \(4,\), not \(5,\)"):
        emit(path, wrong, "x86-vnni", tmp_path / "q.onnx")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_corrections_move_the_output_by_what_they_say(case, tmp_path, scheme):
    path, x, table = case
    added = np.linspace(-20, 20, 6, dtype=np.float32)
    # The last layer has no range of its own to leave on tensorrt; min-max must leave room on x86.
    wide = replace(table.tensors["y"], low=-300.0, high=300.0, minimum=-300.0, maximum=300.0)
    table = replace(table, tensors={**table.tensors, "y": wide})
    emit(path, table, scheme, tmp_path / "plain.onnx")
    emit(path, replace(table, corrections={scheme: {"y": added}}), scheme, tmp_path / "q.onnx")
    moved = run(tmp_path / "q.onnx", x) - run(tmp_path / "plain.onnx", x)
    step = 600 / 255 if scheme == "x86-vnni" else 1e-3
    assert np.abs(moved - added.reshape(-1, 1, 1)).max() <= step


def test_corrections_of_another_scheme_change_nothing(case, tmp_path):
    path, _, table = case
    emit(path, table, "tensorrt", tmp_path / "plain.onnx")
    other = replace(table, corrections={"x86-vnni": {"y": np.ones(6, np.float32)}})
    emit(path, other, "tensorrt", tmp_path / "q.onnx")
    assert (tmp_path / "q.onnx").read_bytes() == (tmp_path / "plain.onnx").read_bytes()


def test_learned_numbers_survive_a_round_trip(case, tmp_path):
    _, _, table = case
    numbers = np.random.default_rng(1).normal(size=6).astype(np.float32)
    table = replace(
        table,
        weight_scales={"w1": np.abs(numbers[:5]), "w2": np.float32(0.1) * np.ones((), np.float32)},
        corrections={"tensorrt": {"y": numbers}},
    )
    table.save(tmp_path / "table.json")
    back = CalibrationTable.load(tmp_path / "table.json")
    np.testing.assert_array_equal(back.weight_scales["w1"], table.weight_scales["w1"])
    assert back.weight_scales["w2"] == table.weight_scales["w2"]
    np.testing.assert_array_equal(back.corrections["tensorrt"]["y"], numbers)
    assert back.to_bytes() == table.to_bytes()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_node_kept_in_float_stays_float_with_its_reason(case, tmp_path, scheme):
    path, x, table = case
    model = load_onnx(path)
    name = model.graph.node[0].name or model.graph.node[0].output[0]
    plan = place(model, get_scheme(scheme), {name: "slower here"})
    assert plan.outcomes[0] == Refusal("slower here")
    report = emit(path, table, scheme, tmp_path / "q.onnx", keep_float={name: "slower here"})
    assert [n.reason for n in report.nodes if n.asked == "float"] == ["slower here"]
    inputs = onnx.load(tmp_path / "q.onnx").graph.node
    first = next(node for node in inputs if node.op_type == "Conv")
    assert list(first.input)[:2] == ["x", "w1"]
    assert np.isfinite(run(tmp_path / "q.onnx", x)).all()
