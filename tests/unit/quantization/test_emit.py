"""Every rule family on the smallest graph that shows its pattern, and what targets make of it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest

from edgevision.errors import ModelError, UsageError
from edgevision.export import save_onnx
from edgevision.quantization import (
    CalibrationTable,
    calibrate,
    emit,
    get_scheme,
    lint,
    scheme_names,
)
from edgevision.quantization.calibrate import observed_tensors
from edgevision.quantization.equivalence import without_qdq


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32) * 0.3


RELU_CHAIN = (
    "(float[n,4,12,12] x) => (float[n,5] y) "
    "{ a = Conv <pads=[1,1,1,1]> (x, w1, b1)  r = Relu (a)"
    "  p = MaxPool <kernel_shape=[2,2], strides=[2,2]> (r)"
    "  c = Conv <pads=[1,1,1,1]> (p, w2)  s = Clip (c, zero, six)"
    "  g = GlobalAveragePool (s)  f = Flatten (g)  y = Gemm <transB=1> (f, w3, b3) }",
    {
        "w1": weights(8, 4, 3, 3),
        "b1": weights(8, seed=1),
        "w2": weights(8, 8, 3, 3, seed=2),
        "w3": weights(5, 8, seed=3),
        "b3": weights(5, seed=4),
        "zero": np.float32(0),
        "six": np.float32(6),
    },
)
RESIDUAL = (
    "(float[n,4,8,8] x) => (float[n,8,6,6] y) "
    "{ a = Conv (x, w1)  r = Relu (a)"
    "  b = Conv <pads=[1,1,1,1]> (r, w2)  c = Add (b, r)  s = Relu (c)"
    "  d = Conv <pads=[1,1,1,1]> (s, w2)  e = Relu (d)  f = Conv <pads=[1,1,1,1]> (e, w2)"
    "  k = Conv (s, w3)  h = Add (k, f)  t = Relu (h)"
    "  y = Conv <pads=[1,1,1,1]> (t, w2) }",
    {"w1": weights(8, 4, 3, 3), "w2": weights(8, 8, 3, 3, seed=1), "w3": weights(8, 8, 1, 1)},
)
CONCAT = (
    "(float[n,4,8,8] x) => (float[n,4,6,6] y) "
    "{ a = Conv (x, w1)  r = Relu (a)  b = Conv (x, w2)  s = Relu (b)"
    "  c = Concat <axis=1> (r, s)  y = Conv <pads=[1,1,1,1]> (c, w3) }",
    {"w1": weights(8, 4, 3, 3), "w2": weights(4, 4, 3, 3) * 9, "w3": weights(4, 12, 3, 3)},
)
OTHERS = (
    "(float[n,6] x) => (float[n,3] y) "
    "{ a = MatMul (x, w1)  b = Relu (a)  c = Gemm (b, w2, b2)  d = Softmax (c)"
    "  y = MatMul (d, w3) }",
    {"w1": weights(6, 8), "w2": weights(8, 5), "b2": weights(5), "w3": weights(5, 3)},
)
TRANSPOSED = (
    "(float[n,4,6,6] x) => (float[n,6,10,10] y) "
    "{ a = ConvTranspose (x, w1)  r = Relu (a)  y = ConvTranspose <group=2> (r, w2) }",
    {"w1": weights(4, 6, 3, 3), "w2": weights(6, 3, 3, 3)},
)
GRAPHS = {
    "relu chain": RELU_CHAIN,
    "residual": RESIDUAL,
    "concat": CONCAT,
    "gemm and matmul": OTHERS,
    "transposed": TRANSPOSED,
}
# ONNX Runtime has no integer kernel for ConvTranspose.
NOT_TRANSPOSED = ("arm", "x86", "x86-vnni")
# What ONNX Runtime makes of the x86-vnni graph: no float Conv, no pair left over inside.
FUSED = {
    "relu chain": {"QLinearConv": 2, "NhwcMaxPool": 1, "QLinearGlobalAveragePool": 1, "QGemm": 1},
    "residual": {"QLinearConv": 6, "QLinearAdd": 2, "QuantizeLinear": 1, "DequantizeLinear": 1},
    "concat": {"QLinearConv": 3, "QLinearConcat": 1, "QuantizeLinear": 1, "DequantizeLinear": 1},
}


@pytest.fixture
def case(make_model, tmp_path):
    """Float model and its table, from random images."""

    def make(name: str):
        text, arrays = GRAPHS[name]
        path = tmp_path / "float.onnx"
        save_onnx(make_model(text, **arrays), path)
        return path, calibrate(path, [images(path, 16)], method="minmax", threads=1)

    return make


def images(path, count=6):
    dims = onnx.load(path).graph.input[0].type.tensor_type.shape.dim[1:]
    shape = (count, *(dim.dim_value for dim in dims))
    return np.random.default_rng(7).normal(size=shape).astype(np.float32)


def run(path, x, optimized=None):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def sqnr(want, have):
    return 10 * np.log10((want**2).sum() / ((want - have) ** 2).sum())


@pytest.mark.parametrize("scheme", scheme_names())
@pytest.mark.parametrize("name", GRAPHS)
class TestEveryScheme:
    def test_computes_nearly_the_same(self, case, tmp_path, name, scheme):
        source, table = case(name)
        if name == "transposed" and scheme in NOT_TRANSPOSED:
            with pytest.raises(ModelError, match="no integer kernel"):
                emit(source, table, scheme, tmp_path / "q.onnx")
            assert not (tmp_path / "q.onnx").exists()
            return
        emit(source, table, scheme, tmp_path / "q.onnx")
        onnx.checker.check_model(tmp_path / "q.onnx", full_check=True)
        x = images(source, 16)
        floor = 30 if get_scheme(scheme).weight.bits == 8 else 25
        assert sqnr(run(source, x), run(tmp_path / "q.onnx", x)) > floor

    def test_passes_its_own_lint_and_is_the_float_graph_again(self, case, tmp_path, name, scheme):
        source, table = case(name)
        if name == "transposed" and scheme in NOT_TRANSPOSED:
            return
        report = emit(source, table, scheme, tmp_path / "q.onnx")
        assert lint(tmp_path / "q.onnx", scheme) == list(report.findings) == []
        original = onnx.load(source)
        bare = without_qdq(onnx.load(tmp_path / "q.onnx"), original)
        assert bare.graph.node == original.graph.node
        assert bare.graph.output == original.graph.output
        save_onnx(bare, tmp_path / "bare.onnx")
        x = images(source)
        np.testing.assert_array_equal(run(tmp_path / "bare.onnx", x), run(source, x))

    def test_same_table_gives_same_bytes(self, case, tmp_path, name, scheme):
        source, table = case(name)
        if name == "transposed" and scheme in NOT_TRANSPOSED:
            return
        table.save(tmp_path / "table.json")
        first = emit(source, table, scheme, tmp_path / "a.onnx")
        loaded = CalibrationTable.load(tmp_path / "table.json")
        assert emit(source, loaded, scheme, tmp_path / "b.onnx").sha256 == first.sha256


@pytest.mark.parametrize("name", FUSED)
def test_onnxruntime_turns_every_layer_into_an_integer_operator(case, tmp_path, name):
    source, table = case(name)
    emit(source, table, "x86-vnni", tmp_path / "q.onnx")
    run(tmp_path / "q.onnx", images(source), tmp_path / "optimized.onnx")
    found = Counter(n.op_type for n in onnx.load(tmp_path / "optimized.onnx").graph.node)
    for operator, count in FUSED[name].items():
        assert found[operator] == count, found
    for operator in ("Conv", "FusedConv", "Add", "Relu", "Clip", "Gemm", "FusedGemm", "Concat"):
        assert operator not in found, found


# TensorRT-RTX has no INT8 transposed convolution; TensorRT itself does.
@pytest.mark.parametrize("name", [name for name in GRAPHS if name != "transposed"])
def test_tensorrt_rtx_runs_every_layer_in_int8(case, tmp_path, name):
    from edgevision.backends import get_backend
    from edgevision.backends.base import BuildOptions, ShapeRange

    backend = get_backend("tensorrt_rtx")
    if not backend.is_available().ok:
        pytest.skip(backend.is_available().reason)
    source, table = case(name)
    emit(source, table, "tensorrt", tmp_path / "q.onnx")
    options = BuildOptions(batch=ShapeRange(1, 1, 4), compute_capabilities=("86",))
    artifact = backend.build(tmp_path / "q.onnx", tmp_path / "q.engine", options)
    layers = Counter((layer.operator, layer.precision) for layer in artifact.layers)
    wanted = Counter(node.op_type for node in onnx.load(source).graph.node)
    gemms = wanted["Gemm"] + wanted["MatMul"]  # RTX calls a MatMul a Gemm
    assert layers["Conv", "int8"] == wanted["Conv"], layers
    assert layers["Gemm", "int8"] + layers["MatMul", "int8"] == gemms, layers


def qdq_inputs(path):
    """Node of the float graph → which of its inputs come out of a DequantizeLinear."""
    graph = onnx.load(path).graph
    made = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    return {
        node.output[0]: [slot for slot, source in enumerate(node.input) if source in made]
        for node in graph.node
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear")
    }


def test_tensorrt_quantizes_the_skip_and_not_the_branch(case, tmp_path):
    source, table = case("residual")
    emit(source, table, "tensorrt", tmp_path / "q.onnx")
    found = qdq_inputs(tmp_path / "q.onnx")
    assert found["c"] == [1]  # b comes out of the Conv, r is the skip
    assert found["h"] == [0]  # both come out of a Conv; k has fewer layers behind it
    assert found["y"] == [0, 1]


def test_tensorrt_leaves_bias_float_and_outputs_alone(case, tmp_path):
    source, table = case("relu chain")
    emit(source, table, "tensorrt", tmp_path / "q.onnx")
    found = qdq_inputs(tmp_path / "q.onnx")
    assert found == {
        **{"a": [0, 1], "r": [], "p": [], "c": [0, 1], "s": [], "g": [], "f": []},
        "y": [0, 1],
    }


def test_tensorrt_numbers(case, tmp_path):
    source, table = case("transposed")
    emit(source, table, "tensorrt", tmp_path / "q.onnx")
    constants = {
        t.name: onnx.numpy_helper.to_array(t)
        for t in onnx.load(tmp_path / "q.onnx").graph.initializer
    }
    assert constants["x_zero_point"] == 0
    assert constants["x_zero_point"].dtype == np.int8
    assert constants["x_scale"] == np.float32(table.tensors["x"].amax / 127)
    assert constants["w1_scale"].shape == (6,)  # axis 1
    assert constants["w2_scale"].shape == ()  # groups: one scale
    weight = GRAPHS["transposed"][1]["w1"]
    restored = constants["w1_quantized"] * constants["w1_scale"][None, :, None, None]
    steps = constants["w1_scale"][None, :, None, None]
    assert (np.abs(restored - weight) <= steps * 0.5001).all()
    assert np.abs(constants["w1_quantized"]).max() == 127


def test_concat_shares_one_scale_where_the_kernels_want_it(case, tmp_path):
    source, table = case("concat")
    scales = {}
    for scheme in scheme_names():
        emit(source, table, scheme, tmp_path / "q.onnx")
        graph = onnx.load(tmp_path / "q.onnx").graph
        constants = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
        scales[scheme] = {float(constants[f"{name}_scale"]) for name in ("r", "s")}
    assert {name: len(found) for name, found in scales.items()} == {
        **{"tensorrt": 1, "openvino": 1},
        **{"x86-vnni": 2, "x86": 2, "arm": 2},
    }


def test_x86_pooling_keeps_the_scale_and_relu_the_zero(case, tmp_path):
    source, table = case("relu chain")
    emit(source, table, "x86-vnni", tmp_path / "q.onnx")
    graph = onnx.load(tmp_path / "q.onnx").graph
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    assert constants["r_scale"] == constants["p_scale"]
    assert constants["r_zero_point"] == constants["s_zero_point"] == 0
    assert constants["x_zero_point"].dtype == np.uint8
    assert 100 < constants["x_zero_point"] < 156
    bias = constants["b1_of_a_quantized"]
    assert bias.dtype == np.int32
    np.testing.assert_array_equal(
        constants["b1_of_a_scale"], constants["x_scale"] * constants["w1_scale"]
    )
    np.testing.assert_allclose(
        bias * constants["b1_of_a_scale"], GRAPHS["relu chain"][1]["b1"], atol=1e-4
    )


def test_bias_too_large_for_tiny_weights_still_fits(make_model, tmp_path):
    w, b = weights(4, 3, 1, 1), weights(4)
    w[1], b[1] = 1e-12, 50.0
    w[2] = 0
    source = tmp_path / "float.onnx"
    save_onnx(
        make_model("(float[n,3,4,4] x) => (float[n,4,4,4] y) { y = Conv (x, w, b) }", w=w, b=b),
        source,
    )
    table = calibrate(source, [images(source)], method="minmax")
    emit(source, table, "x86-vnni", tmp_path / "q.onnx")
    x = images(source)
    assert sqnr(run(source, x), run(tmp_path / "q.onnx", x)) > 35


def test_report_says_what_stays_in_float_and_why(case, tmp_path):
    source, table = case("gemm and matmul")
    report = emit(source, table, "x86-vnni", tmp_path / "q.onnx")
    by_operator = {node.operator: node for node in report.nodes}
    assert by_operator["Softmax"].asked == "float"
    assert "exponentials want float" in by_operator["Softmax"].reason
    assert report.counts() == {"int8": 3, "follows": 1, "float": 1}


def test_table_of_another_model_is_refused(case, make_model, tmp_path):
    _, table = case("concat")
    text, arrays = GRAPHS["residual"]
    save_onnx(make_model(text, **arrays), tmp_path / "other.onnx")
    with pytest.raises(ModelError, match="another model"):
        emit(tmp_path / "other.onnx", table, "tensorrt", tmp_path / "q.onnx")
    assert not (tmp_path / "q.onnx").exists()


def test_unknown_scheme_and_old_opset(case, make_model, tmp_path):
    source, table = case("concat")
    with pytest.raises(UsageError, match="Did you mean 'tensorrt'"):
        emit(source, table, "tensorr", tmp_path / "q.onnx")
    model = make_model(
        "(float[n,3,4,4] x) => (float[n,4,4,4] y) { y = Conv (x, w) }", 11, w=weights(4, 3, 1, 1)
    )
    old = tmp_path / "old.onnx"
    save_onnx(model, old)
    table = calibrate(old, [images(old)])
    with pytest.raises(ModelError, match="opset 13 or later, it has 11"):
        emit(old, table, "tensorrt", tmp_path / "q.onnx")


def test_one_table_holds_what_every_scheme_needs(case):
    source, table = case("residual")
    assert sorted(table.tensors) == observed_tensors(onnx.load(source))
    assert {"x", "r", "s", "k", "b"} <= table.tensors.keys()


def test_schemes_are_complete():
    from edgevision.quantization.lint_rules import LINT_RULES
    from edgevision.quantization.rules import RULES

    for name in scheme_names():
        scheme = get_scheme(name)
        assert scheme.name == name
        assert set(scheme.rules.values()) <= set(RULES.names())
        assert set(scheme.lint) <= set(LINT_RULES.names())
