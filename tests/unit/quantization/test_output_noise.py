"""What a layer costs at the outputs, against the network with that layer alone quantized."""

from __future__ import annotations

import numpy as np
import pytest

from edgevision.errors import DataError, ModelError
from edgevision.export import load_onnx, save_onnx
from edgevision.quantization import calibrate, get_scheme
from edgevision.quantization.insertion import insert_qdq
from edgevision.quantization.output_noise import most_costly_first, output_noise
from edgevision.quantization.placement import place
from edgevision.quantization.simulation import network_sqnr

SCHEMES = ("x86-vnni", "tensorrt")
LINEAR = (
    "(float[n,3,8,8] x) => (float[n,5] y) "
    "{ a = Conv <pads=[1,1,1,1]> (x, w1, b1)  d = Conv <pads=[1,1,1,1], group=8> (a, w2, b2)"
    "  c = Conv (d, w3, b3)  g = GlobalAveragePool (c)  f = Flatten (g)"
    "  y = Gemm <transB=1> (f, w4, b4) }"
)
BRANCHES = (  # noise of either branch is alike at its own output, and one is scaled away behind it
    "(float[n,3,8,8] x) => (float[n,5] y) "
    "{ a = Conv <pads=[1,1,1,1]> (x, w1, b1)  loud = Relu (a)"
    "  b = Conv <pads=[1,1,1,1]> (x, w2, b2)  quiet = Relu (b)"
    "  damped = Mul (quiet, scale)  c = Concat <axis=1> (loud, damped)"
    "  g = GlobalAveragePool (c)  f = Flatten (g)  y = Gemm <transB=1> (f, w4, b4) }"
)


def arrays(random, **shapes):
    return {k: random.normal(size=v).astype(np.float32) * 0.4 for k, v in shapes.items()}


def linear(random):
    shapes = {"w1": (8, 3, 3, 3), "b1": 8, "w2": (8, 1, 3, 3), "b2": 8}
    return arrays(random, **shapes, w3=(8, 8, 1, 1), b3=8, w4=(5, 8), b4=5)


@pytest.fixture
def case(make_model, random, tmp_path):
    """Float model, its path, table and images."""

    def built(text, values):
        path = tmp_path / "float.onnx"
        save_onnx(make_model(text, **values), path)
        images = random.normal(size=(24, 3, 8, 8)).astype(np.float32)
        table = calibrate(path, [images], method="minmax", threads=1)
        return path, table, images

    return built


def test_a_linear_network_loses_what_is_predicted(case, random):
    # TensorRT's scheme, where a layer alone is its weights and input; x86's rounds the output too.
    scheme = "tensorrt"
    path, table, images = case(LINEAR, linear(random))
    found = {row.name: row.noise for row in output_noise(path, table, scheme, images, threads=1)}
    model, chosen = load_onnx(path), get_scheme(scheme)
    for name in ("Conv_0", "Conv_1", "Conv_2"):
        others = dict.fromkeys(set(found) - {name}, "test")
        alone = insert_qdq(model, place(model, chosen, others), table, chosen)
        measured = 10 ** (-network_sqnr(model, alone, images, threads=1) / 10)
        # 24 images times 4 directions: the estimate itself spreads by some 15 %.
        assert found[name] == pytest.approx(measured, rel=0.5), name


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_counts_at_the_output_goes_first(case, random, scheme):
    values = arrays(random, w1=(8, 3, 3, 3), b1=8, w2=(8, 3, 3, 3), b2=8, w4=(5, 16), b4=5)
    values["scale"] = np.full((1, 8, 1, 1), 1e-3, np.float32)
    path, table, images = case(BRANCHES, values)
    order = [name for name, _ in most_costly_first(path, table, scheme, images)]
    assert order.index("Conv_0") < order.index("Conv_2")
    values["w4"][:, :8], values["w4"][:, 8:] = 1e-6, values["w4"][:, 8:] * 1e3
    path, table, images = case(BRANCHES, values)
    order = [name for name, _ in most_costly_first(path, table, scheme, images)]
    assert order.index("Conv_2") < order.index("Conv_0"), "the head decides which branch counts"


def test_shares_add_up_and_the_order_is_the_same_twice(case, random):
    path, table, images = case(LINEAR, linear(random))
    first = most_costly_first(path, table, "x86-vnni", images)
    assert first == most_costly_first(path, table, "x86-vnni", images)
    shares = [float(cost.partition("%")[0]) for _, cost in first]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100, abs=0.5)
    with pytest.raises(DataError, match="No images"):
        output_noise(path, table, "x86-vnni", images[:0])


def test_without_a_derivative_the_layers_own_noise_decides(case, random):
    text = LINEAR.replace("g = GlobalAveragePool (c)", "e = Det (c)  g = Reshape (e, to)")
    text = text.replace("f = Flatten (g)  ", "").replace("Gemm <transB=1> (f", "Gemm <transB=1> (g")
    values = linear(random) | {"to": np.array([-1, 8], np.int64)}
    path, table, images = case(text, values)
    with pytest.raises(ModelError, match="Det"):
        output_noise(path, table, "x86-vnni", images)
    order = most_costly_first(path, table, "x86-vnni", images)
    assert {"Conv_0", "Conv_1", "Conv_2"} <= {name for name, _ in order}
    assert all(cost.endswith("dB SQNR") for _, cost in order)
