"""Equalized graphs compute the same, and quantize better where channels differ in size."""

from __future__ import annotations

import numpy as np
import pytest

from edgevision.errors import UsageError
from edgevision.export import load_onnx, save_onnx
from edgevision.quantization import calibrate, emit
from edgevision.quantization.equalization import equalize, find_groups, smooth

from .classifiers import DEPTHWISE, PLAIN, images, make_network, run

SCHEMES = ("x86-vnni", "tensorrt")


def normal(random, **shapes):
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


# Text, arrays, and of each group: the producer and its readers, by number of the node.
PATTERNS = {
    "depthwise chain": (
        "(float[n,3,6,6] x) => (float[n,5,6,6] y) { a = Conv (x, w1, b1)  r = Relu (a)"
        "  d = Conv <pads=[1,1,1,1], group=8> (r, w2)  s = LeakyRelu (d)  y = Conv (s, w3) }",
        {"w1": (8, 3, 1, 1), "b1": 8, "w2": (16, 1, 3, 3), "w3": (5, 16, 1, 1)},
        [("Conv_0", ["Conv_2"]), ("Conv_2", ["Conv_4"])],
    ),
    "grouped and transposed": (
        "(float[n,3,6,6] x) => (float[n,4,9,9] y) { a = Conv (x, w1)  m = MaxPool"
        " <kernel_shape=[2,2]> (a)  t = ConvTranspose <strides=[2,2]> (m, w2, b2)"
        "  y = Conv <group=2> (t, w3) }",
        {"w1": (8, 3, 1, 1), "w2": (8, 6, 2, 2), "b2": 6, "w3": (4, 3, 2, 2)},
        [("Conv_0", ["ConvTranspose_2"]), ("ConvTranspose_2", ["Conv_3"])],
    ),
    "squeeze and excite": (
        "(float[n,3,6,6] x) => (float[n,5,6,6] y) { a = Conv (x, w1, b1)  r = Relu (a)"
        "  g = GlobalAveragePool (r)  e = Conv (g, w2)  h = HardSigmoid (e)"
        "  m = Mul (r, h)  y = Conv (m, w3) }",
        {"w1": (8, 3, 1, 1), "b1": 8, "w2": (8, 8, 1, 1), "w3": (5, 8, 1, 1)},
        [("Conv_0", ["Conv_3", "Conv_6"])],
    ),
    "head": (
        "(float[n,3,6,6] x) => (float[n,4] y) { a = Conv (x, w1)  g = GlobalAveragePool (a)"
        "  f = Flatten (g)  c = Gemm <transB=1> (f, w2, b2)  r = Relu (c)  y = MatMul (r, w3) }",
        {"w1": (8, 3, 1, 1), "w2": (6, 8), "b2": 6, "w3": (6, 4)},
        [("Conv_0", ["Gemm_3"]), ("Gemm_3", ["MatMul_5"])],
    ),
    "attention": (
        "(float[n,5,8] x) => (float[n,5,8] y) { l = LayerNormalization (x, g, o)"
        "  q = MatMul (l, w1)  k = MatMul (l, w2)  t = Transpose <perm=[0,2,1]> (k)"
        "  s = MatMul (q, t)  p = Softmax (s)  v = MatMul (p, l2)  m = MatMul (v, w3)"
        "  z = Add (m, b3)  r = Relu (z)  y = MatMul (r, w4) }",
        {"g": 8, "o": 8, "w1": (8, 6), "w2": (8, 6), "l2": (5, 7), "w3": (7, 9), "b3": 9}
        | {"w4": (9, 8)},
        [
            ("LayerNormalization_0", ["MatMul_1", "MatMul_2"]),
            ("MatMul_6", ["MatMul_7"]),
            ("MatMul_7", ["MatMul_10"]),
        ],
    ),
    # Nothing to be done: each line has another reason.
    "upper bound": (
        "(float[n,3,6,6] x) => (float[n,5,6,6] y) { a = Conv (x, w1)  r = Clip (a, lo, hi)"
        "  y = Conv (r, w2) }",
        {"w1": (8, 3, 1, 1), "w2": (5, 8, 1, 1), "lo": (), "hi": ()},
        [],
    ),
    "not homogeneous": (
        "(float[n,3,6,6] x) => (float[n,5,6,6] y) { a = Conv (x, w1)  r = HardSwish (a)"
        "  y = Conv (r, w2) }",
        {"w1": (8, 3, 1, 1), "w2": (5, 8, 1, 1)},
        [],
    ),
    "residual": (
        "(float[n,3,6,6] x) => (float[n,8,6,6] y) { a = Conv (x, w1)  b = Conv (a, w2)"
        "  y = Add (a, b) }",
        {"w1": (8, 3, 1, 1), "w2": (8, 8, 1, 1)},
        [],
    ),
    "squared": (
        "(float[n,3,6,6] x) => (float[n,5,6,6] y) { a = Conv (x, w1)  m = Mul (a, a)"
        "  y = Conv (m, w2) }",
        {"w1": (8, 3, 1, 1), "w2": (5, 8, 1, 1)},
        [],
    ),
    "shared weight": (
        "(float[n,8,6,6] x) => (float[n,8,6,6] y) { a = Conv (x, w1)  y = Conv (a, w1) }",
        {"w1": (8, 8, 1, 1)},
        [],
    ),
    "pixels become channels": (
        "(float[n,3,2,2] x) => (float[n,5] y) { a = Conv (x, w1)  f = Flatten (a)"
        "  y = Gemm (f, w2) }",
        {"w1": (8, 3, 1, 1), "w2": (32, 5)},
        [],
    ),
    "an output of the graph": (
        "(float[n,3,6,6] x) => (float[n,8,6,6] a, float[n,5,6,6] y) { a = Conv (x, w1)"
        "  y = Conv (a, w2) }",
        {"w1": (8, 3, 1, 1), "w2": (5, 8, 1, 1)},
        [],
    ),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_found_and_computed_the_same(make_model, random, tmp_path, name):
    text, shapes, expected = PATTERNS[name]
    arrays = normal(random, **shapes)
    for key in ("w1", "g"):
        if key in arrays:  # the channels differ a hundredfold
            gain = np.geomspace(0.1, 10, arrays[key].shape[0], dtype=np.float32)
            arrays[key] *= gain.reshape(-1, *[1] * (arrays[key].ndim - 1))
    model = make_model(text, **arrays)
    groups = find_groups(model)
    assert [(g.producer.name, [r.name for r in g.readers]) for g in groups] == expected
    shape = [d.dim_value or 2 for d in model.graph.input[0].type.tensor_type.shape.dim]
    x = random.normal(size=shape).astype(np.float32)
    exact = run(model, x)
    for changed, names in (equalize(model), smooth(model, x, threads=1)):
        assert set(names) <= {producer for producer, _ in expected}
        np.testing.assert_allclose(run(changed, x), exact, rtol=1e-5, atol=1e-5 * np.ptp(exact))
        moved = changed.SerializeToString() != model.SerializeToString()
        assert moved == bool(names)


def test_equalized_weights_have_the_same_range_on_both_sides(make_model, random):
    text, shapes, _ = PATTERNS["depthwise chain"]
    arrays = normal(random, **shapes)
    arrays["w1"] *= np.geomspace(0.01, 100, 8, dtype=np.float32).reshape(-1, 1, 1, 1)
    arrays["w2"][3] = arrays["w2"][6:8] = 0  # a dead channel stays what it is
    changed, _ = equalize(make_model(text, **arrays))
    found = {t.name: t for t in changed.graph.initializer}
    w1, w2, w3 = (np.abs(load(found[name])) for name in ("w1", "w2", "w3"))
    live = [0, 1, 2, 4, 5, 6, 7]
    # Two outputs for each input channel.
    np.testing.assert_allclose(w1.max((1, 2, 3))[live], w2.reshape(8, -1).max(1)[live], rtol=0.02)
    kept = [i for i in range(16) if i not in (3, 6, 7)]
    np.testing.assert_allclose(w2.max((1, 2, 3))[kept], w3.max((0, 2, 3))[kept], rtol=0.02)


def load(tensor):
    from onnx import numpy_helper

    return numpy_helper.to_array(tensor)


def test_smoothing_splits_outliers_between_activations_and_weights(make_model, random):
    arrays = normal(random, g=(8,), o=(8,), w1=(8, 6))
    arrays["g"][2] *= 100
    model = make_model(
        "(float[n,5,8] x) => (float[n,5,6] y)"
        " { l = LayerNormalization (x, g, o)  y = MatMul (l, w1) }",
        **arrays,
    )
    x = random.normal(size=(4, 5, 8)).astype(np.float32)
    changed, names = smooth(model, x, threads=1)
    assert names == ["LayerNormalization_0"]
    found = {t.name: load(t) for t in changed.graph.initializer}
    centred = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    peaks = np.abs(centred * arrays["g"] + arrays["o"]).max((0, 1))
    factor = np.sqrt(peaks / np.abs(arrays["w1"]).max(1))
    np.testing.assert_allclose(found["g"], arrays["g"] / factor, rtol=1e-4)
    np.testing.assert_allclose(found["o"], arrays["o"] / factor, rtol=1e-4)
    np.testing.assert_allclose(found["w1"], arrays["w1"] * factor[:, None], rtol=1e-4)
    with pytest.raises(UsageError, match="0 to 1"):
        smooth(model, x, alpha=1.5)


@pytest.mark.parametrize("kind", [PLAIN, DEPTHWISE], ids=["plain", "depthwise"])
def test_uneven_networks_are_rescued(kind, tmp_path):
    """Channels of very different size: hopeless for one scale a tensor, until they are evened."""
    path = tmp_path / "float.onnx"
    make_network(path, kind, spread=1.0)
    seen, other = images("train", 48)[0], images("validation", 300)[0]
    exact = run(path, other).astype(np.float64)
    model = load_onnx(path)
    results = {}
    for name, graph in {
        "plain": model,
        "equalized": equalize(model)[0],
        "smoothed": smooth(model, seen, threads=1)[0],
    }.items():
        save_onnx(graph, tmp_path / "g.onnx")
        table = calibrate(tmp_path / "g.onnx", [seen], method="minmax", threads=1)
        for scheme in SCHEMES:
            emit(tmp_path / "g.onnx", table, scheme, tmp_path / "q.onnx")
            noise = run(tmp_path / "q.onnx", other) - exact
            sqnr = 10 * np.log10(np.square(exact).sum() / np.square(noise).sum())
            results[name, scheme] = sqnr
    for scheme in SCHEMES:
        assert results["equalized", scheme] > results["plain", scheme] + 7
        assert results["smoothed", scheme] > results["plain", scheme] + 7
