"""Range, clipped share and traits of each node against plain numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgevision.export import load_onnx, save_onnx
from edgevision.quantization import CalibrationTable, calibrate, emit, get_scheme
from edgevision.quantization.diagnosis import node_facts, saturated_share
from edgevision.quantization.sensitivity import layer_noise

SCHEMES = ("x86-vnni", "tensorrt")


@pytest.fixture
def case(make_model, random, tmp_path):
    model = make_model(
        "(float[n,3,16,16] x) => (float[n,8,16,16] y) "
        "{ a = Conv (x, w1)  s = Softmax <axis=1> (a)  d = Conv <group=8> (s, w2)"
        "  y = Conv <group=2> (d, w3) }",
        w1=random.normal(size=(8, 3, 1, 1)).astype(np.float32),
        w2=random.normal(size=(8, 1, 1, 1)).astype(np.float32),
        w3=random.normal(size=(8, 4, 1, 1)).astype(np.float32),
    )
    path = tmp_path / "float.onnx"
    save_onnx(model, path)
    images = random.normal(size=(40, 3, 16, 16)).astype(np.float32)
    return path, images, calibrate(path, [images], method="percentile", threads=1)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_facts_of_every_node(case, tmp_path, scheme):
    path, images, table = case
    # A tenth of the input's range, as if a calibrator had clipped that much.
    clipped = replace(table.tensors["x"], low=-0.5, high=0.5, amax=0.5)
    table = replace(table, tensors={**table.tensors, "x": clipped})
    nodes = emit(path, table, scheme, tmp_path / "q.onnx").nodes
    noise = layer_noise(path, table, scheme, images[:2], threads=1)
    facts = node_facts(load_onnx(path), table, get_scheme(scheme), nodes, noise)
    assert [(f.name, f.asked, f.reason) for f in facts] == [
        (n.name, n.asked, n.reason) for n in nodes
    ]
    conv, softmax, depthwise, _ = facts
    assert conv.amax == pytest.approx(0.5, rel=0.02)
    by_hand = (np.abs(images) > 0.5).mean()
    assert conv.saturated == pytest.approx(by_hand, rel=0.02)
    assert conv.sqnr_db < 12 < depthwise.sqnr_db, "clipping is heard"
    assert (softmax.asked, softmax.sqnr_db, softmax.amax, softmax.saturated) == (
        "float",
        None,
        None,
        None,
    )
    assert depthwise.saturated < 0.001
    traits = ["3 input channels", "", "depthwise", "grouped"]
    assert [f.trait for f in facts] == traits
    bare = node_facts(load_onnx(path), table, get_scheme(scheme), nodes)
    assert [f.sqnr_db for f in bare] == [None] * 4


def test_share_needs_a_histogram_only_where_something_is_clipped(case):
    path, images, table = case
    full = calibrate(path, [images], method="minmax", threads=1).tensors["x"]
    assert saturated_share(full, full.minimum, full.maximum) == 0
    assert saturated_share(full, -0.5, 0.5) is None
    counted = table.tensors["x"]
    assert saturated_share(counted, 0.0, 0.0) == pytest.approx(1)
    above = saturated_share(counted, counted.minimum, 1.0)
    assert above == pytest.approx((images > 1).mean(), rel=0.01)


def test_facts_survive_the_table_file(case, tmp_path):
    path, _, table = case
    table.save(tmp_path / "t.json")
    again = CalibrationTable.load(tmp_path / "t.json")
    nodes = emit(path, table, "tensorrt", tmp_path / "q.onnx").nodes
    scheme, model = get_scheme("tensorrt"), load_onnx(path)
    assert node_facts(model, again, scheme, nodes) == node_facts(model, table, scheme, nodes)


def test_what_lies_where_all_readers_are_flat_is_not_clipped(make_model, random, tmp_path):
    model = make_model(
        "(float[n,3,8,8] x) => (float[n,3,8,8] y) { a = Conv (x, w)  y = HardSwish (a) }",
        w=np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1),
    )
    save_onnx(model, tmp_path / "f.onnx")
    images = (random.normal(size=(20, 3, 8, 8)) * 4).astype(np.float32)
    table = calibrate(tmp_path / "f.onnx", [images], method="percentile", threads=1)
    assert table.tensors["a"].low == -3
    lower = replace(table.tensors["a"], high=1.0)
    for ranges, share in ((table.tensors["a"], 0.0), (lower, (images > 1).mean())):
        changed = replace(table, tensors={**table.tensors, "a": ranges})
        nodes = emit(tmp_path / "f.onnx", changed, "x86-vnni", tmp_path / "q.onnx").nodes
        facts = node_facts(load_onnx(tmp_path / "f.onnx"), changed, get_scheme("x86-vnni"), nodes)
        assert facts[1].saturated == pytest.approx(share, abs=2e-3)
