"""Corrected biases take back what quantization shifts, by hand and on nets that classify."""

from __future__ import annotations

import numpy as np
import pytest

from edgevision.errors import UsageError
from edgevision.export import load_onnx, save_onnx
from edgevision.export.graph import Graph
from edgevision.quantization import calibrate, emit, get_scheme
from edgevision.quantization.bias_correction import correct_biases, correctable, levels
from edgevision.quantization.placement import place

from .classifiers import DEPTHWISE, PLAIN, images, make_network, run

SCHEMES = ("x86-vnni", "tensorrt")


@pytest.fixture(scope="module", params=["plain", "depthwise"])
def network(request, tmp_path_factory):
    """Float file, table, calibration images, and the float logits of other images."""
    path = tmp_path_factory.mktemp("nets") / "float.onnx"
    make_network(path, {"plain": PLAIN, "depthwise": DEPTHWISE}[request.param])
    seen, other = images("train", 48)[0], images("validation", 400)[0]
    return path, calibrate(path, [seen], method="minmax", threads=1), seen, other


def error(path, table, scheme, other, folder):
    """SQNR in dB at the logits, and root mean square of their mean shift, on unseen images."""
    emit(path, table, scheme, folder / "q.onnx")
    exact = run(path, other).astype(np.float64)
    noise = run(folder / "q.onnx", other) - exact
    sqnr = 10 * np.log10(np.square(exact).sum() / np.square(noise).sum())
    return sqnr, np.sqrt(np.square(noise.mean(axis=0)).mean())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_empirical_correction_takes_the_shift_out_of_unseen_images(network, scheme, tmp_path):
    path, table, seen, other = network
    before, shift = error(path, table, scheme, other, tmp_path)
    corrected = correct_biases(path, table, scheme, seen, threads=1)
    after, left = error(path, corrected, scheme, other, tmp_path)
    assert after > before + 0.5
    assert left < shift / 3
    assert set(corrected.corrections) == {scheme}, "the other schemes keep theirs"
    assert len(corrected.corrections[scheme]) == sum(
        node.op_type in ("Conv", "Gemm") for node in load_onnx(path).graph.node
    )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_analytic_correction_does_no_harm(network, scheme, tmp_path):
    path, table, seen, other = network
    before, shift = error(path, table, scheme, other, tmp_path)
    corrected = correct_biases(path, table, scheme, seen, method="analytic", threads=1)
    after, left = error(path, corrected, scheme, other, tmp_path)
    assert after > before - 0.2
    assert left < shift


@pytest.mark.parametrize(
    ("text", "weight"),
    [
        ("i = AveragePool <kernel_shape=[1,1]> (x)  y = Conv <group=2> (i, w, b)", (6, 2, 3, 3)),
        (
            "i = AveragePool <kernel_shape=[1,1]> (x)"
            "  y = ConvTranspose <group=2, strides=[3,3]> (i, w, b)",
            (4, 3, 3, 3),
        ),
        ("p = GlobalAveragePool (x)  f = Flatten (p)  y = Gemm <transB=1> (f, w, b)", (6, 4)),
        ("p = GlobalAveragePool (x)  f = Flatten (p)  y = Gemm <alpha=0.5> (f, w, b)", (4, 6)),
    ],
)
def test_analytic_correction_by_hand(make_model, random, tmp_path, text, weight):
    """On images that are the same everywhere the mean input is the input: the change is exact."""
    rank = 2 if "Flatten" in text else 4
    model = make_model(
        f"(float[n,4,6,6] x) => (float{'[n,6]' if rank == 2 else '[n,6,h,v]'} y) {{ {text} }}",
        w=random.normal(size=weight).astype(np.float32),
        b=random.normal(size=6).astype(np.float32),
    )
    path = tmp_path / "float.onnx"
    save_onnx(model, path)
    # 127 is on the grid of every scale below, so the input is exact.
    x = np.ones((2, 4, 6, 6), np.float32) * np.array([127, -127, 127, -127])[:, None, None]
    x = x.astype(np.float32)
    table = calibrate(path, [x], method="minmax", threads=1)
    emit(path, table, "tensorrt", tmp_path / "plain.onnx")
    corrected = correct_biases(path, table, "tensorrt", x, method="analytic", threads=1)
    emit(path, corrected, "tensorrt", tmp_path / "q.onnx")
    exact = run(path, x)
    channels = (0,) if rank == 2 else (0, 2, 3)
    shift = (run(tmp_path / "plain.onnx", x) - exact).mean(channels)
    left = (run(tmp_path / "q.onnx", x) - exact).mean(channels)
    assert np.abs(left).max() < 1e-3 * np.abs(shift).max()


def test_layers_without_a_bias_are_left_out_and_order_is_by_depth(make_model, random, tmp_path):
    model = make_model(
        "(float[n,3,8,8] x) => (float[n,4,8,8] y) "
        "{ a = Conv (x, w1, b1)  b = Conv (x, w1, b1)  c = Add (a, b)  y = Conv (c, w2) }",
        w1=random.normal(size=(4, 3, 1, 1)).astype(np.float32),
        b1=random.normal(size=4).astype(np.float32),
        w2=random.normal(size=(4, 4, 1, 1)).astype(np.float32),
    )
    graph, plan = Graph(model), place(model, get_scheme("tensorrt"))
    layers = correctable(graph, plan)
    assert [node.output[0] for node in layers] == ["a", "b"]
    assert [[n.output[0] for n in level] for level in levels(graph, layers)] == [["a", "b"]]
    chain = Graph(load_chain(make_model, random))
    nodes = [node for node in chain.nodes if node.op_type == "Conv"]
    assert [[n.output[0] for n in level] for level in levels(chain, nodes)] == [["a"], ["b"], ["y"]]


def load_chain(make_model, random):
    arrays = {f"w{i}": random.normal(size=(3, 3, 1, 1)).astype(np.float32) for i in range(3)}
    return make_model(
        "(float[n,3,8,8] x) => (float[n,3,8,8] y) "
        "{ a = Conv (x, w0)  r = Relu (a)  b = Conv (r, w1)  y = Conv (b, w2) }",
        **arrays,
    )


def test_an_unknown_method_lists_the_known_ones(network):
    path, table, seen, _ = network
    with pytest.raises(UsageError, match="Did you mean 'analytic'"):
        correct_biases(path, table, "tensorrt", seen, method="analytical")
