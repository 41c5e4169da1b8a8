"""Noise of each layer against what quantizing that layer alone does, computed by hand."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from edgevision.errors import DataError
from edgevision.export import load_onnx, save_onnx
from edgevision.quantization import calibrate, emit, get_scheme
from edgevision.quantization.insertion import insert_qdq
from edgevision.quantization.placement import place
from edgevision.quantization.sensitivity import layer_noise

SCHEMES = ("x86-vnni", "tensorrt")
TEXT = (
    "(float[n,3,8,8] x) => (float[n,5] y) "
    "{ a = Conv <pads=[1,1,1,1]> (x, w1, b1)  r = Relu (a)"
    "  d = Conv <pads=[1,1,1,1], group=8> (r, w2, b2)  s = Relu (d)"
    "  c = Conv (s, w3, b3)  q = Add (c, s)  g = GlobalAveragePool (q)  f = Flatten (g)"
    "  y = Gemm <transB=1> (f, w4, b4) }"
)


def arrays(random):
    shapes = {"w1": (8, 3, 3, 3), "b1": 8, "w2": (8, 1, 3, 3), "b2": 8}
    shapes |= {"w3": (8, 8, 1, 1), "b3": 8, "w4": (5, 8), "b4": 5}
    return {k: random.normal(size=v).astype(np.float32) * 0.4 for k, v in shapes.items()}


@pytest.fixture
def case(make_model, random, tmp_path):
    path = tmp_path / "float.onnx"
    save_onnx(make_model(TEXT, **arrays(random)), path)
    images = random.normal(size=(6, 3, 8, 8)).astype(np.float32)
    return path, calibrate(path, [images], method="minmax", threads=1), images


def tensor(path, name, images):
    """``name`` of the graph at ``path``, computed without any rewriting."""
    model = onnx.load(path)
    del model.graph.output[:]
    model.graph.output.append(onnx.ValueInfoProto(name=name))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run(None, {"x": images})[0].astype(np.float64)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_layer_is_measured_as_if_it_alone_were_quantized(case, tmp_path, scheme):
    path, table, images = case
    noise = layer_noise(path, table, scheme, images, threads=1)
    found = {layer.name: layer for layer in noise.layers}
    nodes = emit(path, table, scheme, tmp_path / "q.onnx").nodes
    assert list(found) == [node.name for node in nodes if node.asked == "int8"]
    others = {node.name: "test" for node in nodes if node.name != "Conv_2"}
    model, chosen = load_onnx(path), get_scheme(scheme)
    alone = insert_qdq(model, place(model, chosen, others), table, chosen)
    save_onnx(alone, tmp_path / "one.onnx")
    exact, got = tensor(path, "d", images), tensor(tmp_path / "one.onnx", "d", images)
    layer = found["Conv_2"]
    by_hand = 10 * np.log10(np.square(exact).sum() / np.square(got - exact).sum())
    assert layer.sqnr_db == pytest.approx(by_hand, abs=0.01)
    np.testing.assert_allclose(layer.shift, (got - exact).mean(axis=(0, 2, 3)), atol=1e-5)
    assert (layer.output, layer.operator, layer.channels) == ("d", "Conv", 8)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_whole_network_and_macs(case, tmp_path, scheme):
    path, table, images = case
    noise = layer_noise(path, table, scheme, images, threads=1)
    emit(path, table, scheme, tmp_path / "q.onnx")
    exact, got = tensor(path, "y", images), tensor(tmp_path / "q.onnx", "y", images)
    by_hand = 10 * np.log10(np.square(exact).sum() / np.square(got - exact).sum())
    assert noise.sqnr_db == pytest.approx(by_hand, abs=0.05)
    macs = {layer.name: layer.macs for layer in noise.layers if layer.macs}
    assert macs == {"Conv_0": 8 * 27 * 64, "Conv_2": 8 * 9 * 64, "Conv_4": 64 * 64, "Gemm_8": 40}


def test_the_pass_is_the_same_twice_and_wants_images(case):
    path, table, images = case
    first = layer_noise(path, table, "x86-vnni", images, threads=1)
    again = layer_noise(path, table, "x86-vnni", images, threads=1)
    assert [x.sqnr_db for x in first.layers] == [x.sqnr_db for x in again.layers]
    with pytest.raises(DataError, match="No images"):
        layer_noise(path, table, "x86-vnni", images[:0], threads=1)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_layer_with_one_huge_channel_is_the_noisiest(make_model, random, tmp_path, scheme):
    values = arrays(random)
    values["w1"][0] *= 300  # the activations that follow lose all others to one scale
    values["w2"][0] /= 300
    path = tmp_path / "float.onnx"
    save_onnx(make_model(TEXT, **values), path)
    images = random.normal(size=(6, 3, 8, 8)).astype(np.float32)
    table = calibrate(path, [images], method="minmax", threads=1)
    noise = layer_noise(path, table, scheme, images, threads=1)
    worst = next(layer for layer in noise.worst_first() if layer.operator == "Conv")
    assert worst.name == "Conv_2"
