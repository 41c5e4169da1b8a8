"""Patterns of modern networks, each on its smallest graph: what is asked for, and what is run."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest

from edgevision.backends import get_backend
from edgevision.backends.base import BuildOptions, ShapeRange
from edgevision.export import save_onnx
from edgevision.quantization import calibrate, emit, lint, scheme_names


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32) * 0.3


IN, PAD = "(float[n,16,8,8] x) => (float[n,16,8,8] y)", "<pads=[1,1,1,1]>"
TOKENS = "(float[n,16,32] x) => (float[n,16,32] y)"
SQUARE, ONE = weights(16, 16, 3, 3), weights(16, 16, 1, 1, seed=1)

# name → graph, constants, matrix layers in INT8 on TensorRT-RTX, operators of ONNX Runtime's graph
PATTERNS = {
    "depthwise and grouped": (
        IN + "{ a = Conv <group=16, pads=[1,1,1,1]> (x, d)  r = Relu (a)"
        "  b = Conv <group=4, pads=[1,1,1,1]> (r, g)  s = Relu (b)  y = Conv (s, o) }",
        {"d": weights(16, 1, 3, 3), "g": weights(16, 4, 3, 3), "o": ONE},
        3,
        {"QLinearConv": 3},
    ),
    "squeeze and excite": (
        IN + f"{{ a = Conv {PAD} (x, w)  r = Relu (a)  g = GlobalAveragePool (r)"
        "  c = Conv (g, u)  s = Relu (c)  e = Conv (s, v)  h = Sigmoid (e)  m = Mul (r, h)"
        "  y = Conv (m, o) }",
        {"w": SQUARE, "u": weights(4, 16, 1, 1), "v": weights(16, 4, 1, 1), "o": ONE},
        4,
        {"QLinearConv": 4, "QLinearGlobalAveragePool": 1, "QLinearMul": 1},
    ),
    "Hard-swish": (
        IN + f"{{ a = Conv {PAD} (x, w)  h = HardSwish (a)  y = Conv (h, o) }}",
        {"w": SQUARE, "o": ONE},
        2,
        {"QLinearConv": 2, "QLinearAdd": 1, "QLinearMul": 1, "HardSigmoid": 0},
    ),
    "SiLU": (
        IN + f"{{ a = Conv {PAD} (x, w)  s = Sigmoid (a)  m = Mul (a, s)  y = Conv (m, o) }}",
        {"w": SQUARE, "o": ONE},
        2,
        {"QLinearConv": 2, "QLinearMul": 1},
    ),
    "GELU in an MLP": (
        TOKENS + "{ a = MatMul (x, u)  b = Add (a, c)  d = Div (b, root)  e = Erf (d)"
        "  f = Add (e, one)  g = Mul (b, f)  h = Mul (g, half)  y = MatMul (h, v) }",
        {
            **{"u": weights(32, 64), "v": weights(64, 32), "c": weights(64)},
            **{"root": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)},
        },
        2,
        {"MatMul": 0},
    ),
    "attention": (
        TOKENS + "{ l = LayerNormalization (x, gain, shift)  q = MatMul (l, wq)"
        "  k = MatMul (l, wk)  v = MatMul (l, wv)  kt = Transpose <perm=[0,2,1]> (k)"
        "  qk = MatMul (q, kt)  p = Softmax (qk)  o = MatMul (p, v)  u = MatMul (o, wo)"
        "  y = Add (x, u) }",
        {
            **{"gain": np.ones(32, np.float32), "shift": np.zeros(32, np.float32)},
            **{name: weights(32, 32, seed=i) for i, name in enumerate(("wq", "wk", "wv", "wo"))},
        },
        6,
        {"MatMul": 0, "LayerNormalization": 1},
    ),
    "Resize": (
        "(float[n,16,8,8] x) => (float[n,16,16,16] y)"
        f"{{ a = Conv {PAD} (x, w)  r = Relu (a)"
        '  z = Resize <mode="linear"> (r, , factors)  y = Conv (z, o) }',
        {"w": SQUARE, "o": ONE, "factors": np.array([1, 1, 2, 2], np.float32)},
        2,
        {"QLinearConv": 2, "Resize": 1},
    ),
    "layer scale": (
        IN + f"{{ a = Conv {PAD} (x, w)  m = Mul (a, gamma)  s = Add (m, x)  y = Conv (s, o) }}",
        {"w": SQUARE, "o": ONE, "gamma": weights(16, 1, 1)},
        2,
        {"QLinearConv": 2},
    ),
}


@pytest.fixture
def case(make_model, tmp_path):
    """Path of the float model and its table."""

    def make(name):
        text, arrays, *_ = PATTERNS[name]
        path = tmp_path / "float.onnx"
        model = make_model(text, **arrays)
        save_onnx(model, path)
        shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:]]
        x = np.random.default_rng(7).normal(size=(8, *shape)).astype(np.float32)
        return path, calibrate(path, [x], method="minmax", threads=1), x

    return make


def run(path, x, optimized=None):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("name", PATTERNS)
def test_every_scheme_computes_nearly_the_same(case, tmp_path, name):
    source, table, x = case(name)
    want = run(source, x)
    for scheme in scheme_names():
        report = emit(source, table, scheme, tmp_path / "q.onnx")  # proves it is the float graph
        assert not [f for f in lint(tmp_path / "q.onnx", scheme) if f.severity == "error"]
        noise = ((want - run(tmp_path / "q.onnx", x)) ** 2).sum()
        assert 10 * np.log10((want**2).sum() / noise) > (17 if scheme == "x86" else 20), scheme
        products = [n for n in report.nodes if n.operator in ("Conv", "MatMul")]
        in_float = [n for n in products if n.asked != "int8"]
        # OpenVINO multiplies activations by activations as fast in float: q k and p v.
        assert len(in_float) == (2 if (name, scheme) == ("attention", "openvino") else 0)
        assert all("two activations" in n.reason for n in in_float)


@pytest.mark.parametrize("name", PATTERNS)
def test_onnxruntime_fuses(case, tmp_path, name):
    source, table, x = case(name)
    emit(source, table, "x86-vnni", tmp_path / "q.onnx")
    run(tmp_path / "q.onnx", x, tmp_path / "optimized.onnx")
    found = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert {name: found[name] for name in PATTERNS[name][3]} == PATTERNS[name][3], found
    assert found["Conv"] + found["FusedConv"] == 0, found


def test_openvino_gets_a_pair_on_every_edge_between_layers(make_model, tmp_path):
    """But none between a layer and an activation that fuses into it in float."""
    model = make_model(
        IN + f"{{ a = Conv {PAD} (x, w)  r = Relu (a)  b = Conv {PAD} (r, w)  s = Add (b, x)"
        f"  c = Conv {PAD} (s, w)  g = Sigmoid (c)  m = Mul (c, g)  y = Conv {PAD} (m, w) }}",
        w=SQUARE,
    )
    save_onnx(model, tmp_path / "f.onnx")
    x = np.random.default_rng(7).normal(size=(4, 16, 8, 8)).astype(np.float32)
    table = calibrate(tmp_path / "f.onnx", [x], method="minmax", threads=1)
    emit(tmp_path / "f.onnx", table, "openvino", tmp_path / "q.onnx")
    nodes = onnx.load(tmp_path / "q.onnx").graph.node
    quantized = {node.input[0] for node in nodes if node.op_type == "QuantizeLinear"}
    assert quantized == {"x", "r", "b", "s", "m"}


# Tensors with one reader that takes integers and another that does not.
FORKS = {
    "activation": "{ c = Conv (x, w)  r = Relu (c)  d = Conv (c, w)  s = Add (r, d)"
    "  y = Conv (s, w) }",
    "resized sum": "{ a = Conv (x, w)  s = Add (a, x)  b = Conv (s, w)"
    "  r = Resize (s, , same)  z = Conv (r, w)  y = Add (b, z) }",
    "resized pool": "{ a = Conv (x, w)  p = MaxPool <kernel_shape=[1,1]> (a)  b = Conv (p, w)"
    "  r = Resize (p, , same)  z = Conv (r, w)  y = Add (b, z) }",
    "product": "{ c = Conv (x, w)  k = Sigmoid (x)  m = MatMul (c, k)  d = Conv (c, w)"
    "  s = Add (m, d)  y = Conv (s, w) }",
    "product of a sum": "{ c = Conv (x, w)  s = Add (c, x)  k = Sigmoid (x)  m = MatMul (s, k)"
    "  y = Conv (m, w) }",
}


@pytest.mark.parametrize("name", FORKS)
def test_readers_of_both_kinds_are_no_obstacle(make_model, tmp_path, name):
    text, arrays = IN + FORKS[name], {"w": ONE}
    if "same" in text:
        arrays["same"] = np.ones(4, np.float32)
    save_onnx(make_model(text, **arrays), tmp_path / "f.onnx")
    x = np.random.default_rng(7).normal(size=(4, 16, 8, 8)).astype(np.float32)
    table = calibrate(tmp_path / "f.onnx", [x], method="minmax", threads=1)
    want = run(tmp_path / "f.onnx", x)
    for scheme in scheme_names():
        emit(tmp_path / "f.onnx", table, scheme, tmp_path / "q.onnx")
        noise = ((want - run(tmp_path / "q.onnx", x)) ** 2).sum()
        assert 10 * np.log10((want**2).sum() / noise) > 17, scheme


def test_openvino_takes_integers_to_products_with_weights(make_model, tmp_path):
    model = make_model(
        "(float[n,16,8,8] x) => (float[n,32,8,4] y) { a = Conv (x, w)  b = Conv (x, v)"
        "  c = Concat <axis=1> (a, b)  y = MatMul (c, u) }",
        w=ONE,
        v=weights(16, 16, 1, 1, seed=2),
        u=weights(8, 4),
    )
    save_onnx(model, tmp_path / "f.onnx")
    x = np.random.default_rng(7).normal(size=(4, 16, 8, 8)).astype(np.float32)
    table = calibrate(tmp_path / "f.onnx", [x], method="minmax", threads=1)
    nodes = emit(tmp_path / "f.onnx", table, "openvino", tmp_path / "q.onnx").nodes
    assert [node.asked for node in nodes] == ["int8"] * 4


@pytest.mark.parametrize("name", PATTERNS)
def test_tensorrt_rtx_runs_every_product_in_int8(case, tmp_path, name):
    backend = get_backend("tensorrt_rtx")
    if not backend.is_available().ok:
        pytest.skip(backend.is_available().reason)
    source, table, _ = case(name)
    emit(source, table, "tensorrt", tmp_path / "q.onnx")
    options = BuildOptions(batch=ShapeRange(1, 1, 1), compute_capabilities=("86",))
    layers = backend.build(tmp_path / "q.onnx", tmp_path / "q.engine", options).layers
    products = {node.name for node in onnx.load(source).graph.node if node.op_type in MATRIX}
    int8 = {name for layer in layers if layer.precision == "int8" for name in layer.nodes}
    assert products <= int8, [(la.name, la.precision, la.nodes) for la in layers]
    assert len(products) == PATTERNS[name][2]


MATRIX = ("Conv", "Gemm", "MatMul")


def test_a_concat_in_front_of_nothing_quantized_stays_in_float(make_model, tmp_path):
    model = make_model(
        "(float[n,4,32] x) => (float[n,5,32] y) { s = MatMul (x, w)"
        "  t = MatMul (s, w)  c = Concat <axis=1> (x, t)  l = LayerNormalization (c, gain)"
        "  y = Gather <axis=1> (l, first) }",
        w=weights(32, 32),
        gain=np.ones(32, np.float32),
        first=np.arange(5),
    )
    save_onnx(model, tmp_path / "float.onnx")
    x = np.random.default_rng(7).normal(size=(8, 4, 32)).astype(np.float32)
    table = calibrate(tmp_path / "float.onnx", [x], method="minmax", threads=1)
    for scheme in scheme_names():
        nodes = emit(tmp_path / "float.onnx", table, scheme, tmp_path / "q.onnx").nodes
        concat = next(node for node in nodes if node.operator == "Concat")
        assert (concat.asked, concat.reason) == ("float", "nothing behind it runs on integers")


@pytest.mark.parametrize("scheme", scheme_names())
def test_a_recurrent_layer_stays_in_float_with_its_reason(make_model, tmp_path, scheme):
    model = make_model(
        "(float[4,n,8] x) => (float[4,1,n,5] y) "
        "{ a = MatMul (x, u)  y = LSTM <hidden_size=5> (a, w, r) }",
        u=weights(8, 8),
        w=weights(1, 20, 8),
        r=weights(1, 20, 5),
    )
    save_onnx(model, tmp_path / "float.onnx")
    from edgevision.export.loading import load_onnx
    from edgevision.quantization import get_scheme
    from edgevision.quantization.placement import place
    from edgevision.quantization.rules.base import Refusal

    plan = place(load_onnx(tmp_path / "float.onnx"), get_scheme(scheme))
    assert plan.outcomes[1] == Refusal("a recurrent state would gather the rounding of every step")
