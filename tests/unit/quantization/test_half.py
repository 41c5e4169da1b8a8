"""The float16 remainder: the same results, float16 in the engine, float32 where it must be."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest

from edgevision.backends import get_backend
from edgevision.backends.base import BuildOptions, ShapeRange
from edgevision.errors import ModelError
from edgevision.export import save_onnx
from edgevision.quantization import calibrate, emit
from edgevision.quantization.half import to_half


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32) * 0.3


RESNET = (
    "(float[n,8,8,8] x) => (float[n,5] y) "
    "{ a = Conv <pads=[1,1,1,1]> (x, w1, b1)  r = Relu (a)"
    "  b = Conv <pads=[1,1,1,1]> (r, w2)  c = Add (b, r)  s = HardSwish (c)"
    "  d = Conv <pads=[1,1,1,1]> (s, w2)  t = HardSwish (d)"
    "  g = GlobalAveragePool (t)  f = Flatten (g)  y = Gemm <transB=1> (f, w3, b3) }",
    {
        "w1": weights(16, 8, 3, 3),
        "b1": weights(16, seed=1),
        "w2": weights(16, 16, 3, 3, seed=2),
        "w3": weights(5, 16, seed=3),
        "b3": weights(5, seed=4),
    },
)
VIT = (
    "(float[n,16,32] x) => (float[n,16,32] y) "
    "{ l = LayerNormalization (x, gain, shift)"
    "  q = MatMul (l, wq)  k = MatMul (l, wk)  v = MatMul (l, wv)"
    "  kt = Transpose <perm=[0,2,1]> (k)  qs = Mul (q, scale)  qk = MatMul (qs, kt)"
    "  p = Softmax (qk)  o = MatMul (p, v)  u = MatMul (o, wo)  r = Add (x, u)"
    "  m = MatMul (r, w1)  e = Erf (m)  h = Mul (m, e)  z = MatMul (h, w2)  y = Add (r, z) }",
    {
        "gain": np.ones(32, np.float32),
        "shift": np.zeros(32, np.float32),
        "scale": np.float32(0.25),
        **{name: weights(32, 32, seed=i) for i, name in enumerate(("wq", "wk", "wv", "wo"))},
        "w1": weights(32, 64),
        "w2": weights(64, 32),
    },
)
LAYERS = ("Conv", "Gemm", "MatMul")
GRAPHS = {"resnet": RESNET, "vit": VIT}


@pytest.fixture
def case(make_model, tmp_path):
    """Float model, its table, and the Q/DQ graph with both remainders."""

    def make(name):
        text, arrays = GRAPHS[name]
        model = make_model(text, **arrays)
        save_onnx(model, tmp_path / "float.onnx")
        x = images(model)
        table = calibrate(tmp_path / "float.onnx", [x], method="minmax", threads=1)
        emit(tmp_path / "float.onnx", table, "tensorrt", tmp_path / "single.onnx")
        half = to_half(onnx.load(tmp_path / "single.onnx"), table=table)
        save_onnx(half, tmp_path / "half.onnx")
        return model, half, x

    return make


def images(model, count=8):
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    return np.random.default_rng(7).normal(size=(count, *shape)).astype(np.float32)


def run(model, x):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    content = model if isinstance(model, bytes) else model.SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def sqnr(want, have):
    return 10 * np.log10((want**2).sum() / ((want - have) ** 2).sum())


@pytest.mark.parametrize("name", GRAPHS)
def test_computes_the_same_with_float32_inputs_and_outputs(case, tmp_path, name):
    model, half, x = case(name)
    onnx.checker.check_model(half, full_check=True)
    have = run(half, x)
    assert have.dtype == np.float32
    single = run(onnx.load(tmp_path / "single.onnx"), x)
    want = run(model, x)
    assert sqnr(want, have) > sqnr(want, single) - 1
    assert half.graph.input == model.graph.input
    assert [v.name for v in half.graph.output] == [v.name for v in model.graph.output]


@pytest.mark.parametrize("name", GRAPHS)
def test_tensorrt_rtx_keeps_int8_and_runs_the_rest_in_half(case, tmp_path, name):
    backend = get_backend("tensorrt_rtx")
    if not backend.is_available().ok:
        pytest.skip(backend.is_available().reason)
    case(name)
    found = {}
    for remainder in ("single", "half"):
        options = BuildOptions(batch=ShapeRange(1, 1, 1), compute_capabilities=("86",))
        path = tmp_path / f"{remainder}.onnx"
        found[remainder] = backend.build(path, tmp_path / "e.engine", options).layers
    matrices = {
        remainder: Counter(
            la.operator for la in layers if la.operator in LAYERS and la.precision == "int8"
        )
        for remainder, layers in found.items()
    }
    assert matrices["half"] == matrices["single"]
    assert matrices["half"].total() > 0
    precisions = {k: {layer.precision for layer in layers} for k, layers in found.items()}
    assert "fp16" not in precisions["single"]
    assert "fp16" in precisions["half"], [(la.name, la.precision) for la in found["half"]]


def test_normalization_and_reductions_stay_in_float32(case):
    _, half, _ = case("vit")
    types = element_types(half)
    norm = next(node for node in half.graph.node if node.op_type == "LayerNormalization")
    softmax = next(node for node in half.graph.node if node.op_type == "Softmax")
    assert types[norm.output[0]] == onnx.TensorProto.FLOAT
    assert types[softmax.output[0]] == onnx.TensorProto.FLOAT16


def element_types(model):
    inferred = onnx.shape_inference.infer_shapes(model)
    return {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}


@pytest.mark.parametrize(
    ("constant", "kind"),
    [(0.5, onnx.TensorProto.FLOAT16), (1e6, onnx.TensorProto.FLOAT), (1e-12, 1)],
)
def test_a_constant_beyond_float16_keeps_its_node_in_float32(make_model, constant, kind):
    model = make_model(
        "(float[n,4] x) => (float[n,4] y) { a = Mul (x, k)  b = Tanh (a)  y = Neg (b) }",
        k=np.float32(constant),
    )
    half = to_half(model)
    types = element_types(half)
    assert types["a"] == kind
    assert types["b"] == onnx.TensorProto.FLOAT16
    x = images(model)
    np.testing.assert_allclose(run(half, x), run(model, x), rtol=2e-3, atol=1e-5)


def test_tensors_that_calibration_saw_come_near_the_limit_stay(make_model, tmp_path):
    arrays = {"w": weights(4, 4), "k": np.float32(3e4)}
    model = make_model(
        "(float[n,4] x) => (float[n,4] y) { a = Mul (x, k)  b = MatMul (a, w)  y = Tanh (b) }",
        **arrays,
    )
    save_onnx(model, tmp_path / "float.onnx")
    x = images(model) * 3
    table = calibrate(tmp_path / "float.onnx", [x], method="minmax", threads=1)
    emit(tmp_path / "float.onnx", table, "tensorrt", tmp_path / "q.onnx")
    quantized = onnx.load(tmp_path / "q.onnx")
    half = to_half(quantized, table=table)
    assert np.isfinite(run(half, x)).all()
    np.testing.assert_allclose(run(half, x), run(quantized, x), atol=1e-3)


def test_named_nodes_stay_and_the_input_is_not_changed(make_model):
    model = make_model("(float[n,4] x) => (float[n,4] y) { a = Tanh (x)  y = Neg (a) }")
    before = model.SerializeToString()
    half = to_half(model, keep_float32=["Tanh_0"])
    assert model.SerializeToString() == before
    assert [node.op_type for node in half.graph.node] == ["Tanh", "Cast", "Neg", "Cast"]


def test_an_old_opset_is_refused(make_model):
    model = make_model("(float[n,4] x) => (float[n,4] y) { y = Tanh (x) }", opset=17)
    with pytest.raises(ModelError, match="opset 18 or later, the model has 17"):
        to_half(model)
