"""Each rule on a graph that a target would accept and run wrongly, and nothing on a good one."""

from __future__ import annotations

import numpy as np
import pytest

from edgevision.errors import ModelError
from edgevision.export import save_onnx
from edgevision.quantization import get_scheme, lint, scheme_names

W = np.ones((4, 4, 3, 3), np.int8)
NUMBERS = {
    "w": W,
    "s": np.float32(0.1),
    "s2": np.float32(0.2),
    "z": np.int8(0),
    "sw": np.full(4, 0.01, np.float32),
    "zw": np.zeros(4, np.int8),
}
WEIGHT = "wf = DequantizeLinear <axis=0> (w, sw, zw)"
INPUT = "xq = QuantizeLinear (x, s, z)  xf = DequantizeLinear (xq, s, z)"
CONV = "Conv <pads=[1,1,1,1]>"


def body(*lines: str, inputs: str = "float[n,4,8,8] x") -> str:
    return f"({inputs}) => (float[n,4,8,8] y) {{ {'  '.join(lines)} }}"


GOOD = body(INPUT, WEIGHT, f"c = {CONV} (xf, wf)", "y = Relu (c)")

# rule → (graph, changed initializers, node that the finding names)
BAD = {
    "uint8 activations": (
        "activation-dtype",
        GOOD,
        {"z": np.uint8(0)},
        "QuantizeLinear_0",
    ),
    "zero point": ("activation-zero-point", GOOD, {"z": np.int8(3)}, "QuantizeLinear_0"),
    "sixteen bits": ("integer-width", GOOD, {"z": np.int16(0)}, "QuantizeLinear_0"),
    "weight axis": (
        "weight-axis",
        GOOD.replace("axis=0", "axis=1"),
        {},
        "Conv_3",
    ),
    "uint8 weights": (
        "weight-dtype",
        GOOD,
        {"w": W.astype(np.uint8), "zw": np.zeros(4, np.uint8)},
        "DequantizeLinear_2",
    ),
    "asymmetric weights": (
        "weight-zero-point",
        GOOD,
        {"zw": np.full(4, 2, np.int8)},
        "DequantizeLinear_2",
    ),
    "zero scale": ("scale", GOOD, {"s": np.float32(0)}, "QuantizeLinear_0"),
    "infinite scale": ("scale", GOOD, {"sw": np.full(4, np.inf, np.float32)}, "DequantizeLinear_2"),
    "NaN scale": ("scale", GOOD, {"s": np.float32("nan")}, "QuantizeLinear_0"),
    "a scale for each channel of an activation": (
        "scale",
        GOOD,
        {"s": np.full(4, 0.1, np.float32), "z": np.zeros(4, np.int8)},
        "QuantizeLinear_0",
    ),
    "float weights": (
        "half-quantized",
        body(INPUT, f"c = {CONV} (xf, k)", "y = Relu (c)"),
        {"k": W.astype(np.float32)},
        "Conv_2",
    ),
    "float input": (
        "half-quantized",
        body(WEIGHT, f"c = {CONV} (x, wf)", "y = Relu (c)"),
        {},
        "Conv_1",
    ),
    "before Relu": (
        "before-activation",
        body(
            INPUT,
            WEIGHT,
            f"c = {CONV} (xf, wf)",
            "cq = QuantizeLinear (c, s, z)",
            "cf = DequantizeLinear (cq, s, z)",
            "y = Relu (cf)",
        ),
        {},
        "QuantizeLinear_4",
    ),
    "integer bias": (
        "float-bias",
        body(
            INPUT,
            WEIGHT,
            "bf = DequantizeLinear <axis=0> (b, sw)",
            f"c = {CONV} (xf, wf, bf)",
            "y = Relu (c)",
        ),
        {"b": np.ones(4, np.int32)},
        "DequantizeLinear_3",
    ),
    "both Add inputs": (
        "both-add-branches",
        body(
            INPUT,
            WEIGHT,
            f"c = {CONV} (xf, wf)",
            "cq = QuantizeLinear (c, s, z)",
            "cf = DequantizeLinear (cq, s, z)",
            "y = Add (cf, xf)",
        ),
        {},
        "Add_6",
    ),
    "before Resize": (
        "before-resize",
        body(INPUT, "y = Resize (xf, , factors)"),
        {"factors": np.ones(4, np.float32)},
        "QuantizeLinear_0",
    ),
    "Concat scales": (
        "concat-scales",
        body(
            INPUT,
            "aq = QuantizeLinear (a, s2, z)",
            "af = DequantizeLinear (aq, s2, z)",
            "y = Concat <axis=1> (xf, af)",
            inputs="float[n,2,8,8] x, float[n,2,8,8] a",
        ),
        {},
        "Concat_4",
    ),
}


@pytest.fixture
def write(make_model, tmp_path):
    def make(text, **changes):
        used = {k: v for k, v in {**NUMBERS, **changes}.items() if k in text}
        path = tmp_path / "model.onnx"
        save_onnx(make_model(text, opset=21, **used), path)
        return path

    return make


@pytest.mark.parametrize("name", BAD)
def test_tensorrt_lint_names_rule_and_node(write, name):
    rule, text, changes, node = BAD[name]
    found = lint(write(text, **changes), "tensorrt")
    assert (rule, node) in {(finding.rule, finding.node) for finding in found}, found


def test_good_graph_has_no_findings(write):
    assert lint(write(GOOD), "tensorrt") == []


ROUNDED = "wq = QuantizeLinear <axis=0> (w, sw, zw)  wf = DequantizeLinear <axis=0> (wq, sw, zw)"


def test_float_weights_may_be_rounded_in_the_graph(write):
    text = body(INPUT, ROUNDED, f"c = {CONV} (xf, wf)", "y = Relu (c)")
    assert lint(write(text, w=W.astype(np.float32)), "tensorrt") == []
    found = lint(write(text.replace("axis=0", "axis=1"), w=W.astype(np.float32)), "tensorrt")
    assert [(each.rule, each.node) for each in found] == [("weight-axis", "Conv_4")]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(w, sw, zw)", "(w, sw2, zw)"),
        ("QuantizeLinear <axis=0> (w", "QuantizeLinear <axis=1> (w"),
        ("(w, sw, zw)", "(w, s, z)"),
    ],
)
def test_weights_that_come_back_otherwise_than_they_went_in(write, old, new):
    text = body(INPUT, ROUNDED.replace(old, new, 1), f"c = {CONV} (xf, wf)", "y = Relu (c)")
    path = write(text, w=W.astype(np.float32), sw2=NUMBERS["sw"] * 3)
    assert "weight-rounding" in {each.rule for each in lint(path, "tensorrt")}


def test_a_constant_that_is_no_layer_s_factor_is_an_activation(write):
    constant = "kq = QuantizeLinear (k, s, z)  kf = DequantizeLinear (kq, s, z)"
    text = body(INPUT, constant, "a = Add (xf, kf)", "y = Relu (a)")
    path = write(text, k=np.ones((1, 4, 8, 8), np.float32), z=np.uint8(7))
    rules = {each.rule for each in lint(path, "x86-vnni")}
    assert not rules & {"weight-dtype", "weight-zero-point"}
    assert "activation-dtype" in {each.rule for each in lint(path, "tensorrt")}


def test_every_rule_of_every_scheme_is_shown_here():
    shown = {rule for rule, *_ in BAD.values()} | {"int32-bias", "output-not-quantized"}
    shown |= {"weight-range", "weight-rounding"}  # below
    assert shown == {rule for name in scheme_names() for rule in get_scheme(name).lint}


X86 = {"z": np.uint8(128)}


def test_x86_wants_unsigned_activations_and_quantized_outputs(write):
    found = {finding.rule: finding for finding in lint(write(GOOD), "x86-vnni")}
    assert found.keys() == {"activation-dtype", "output-not-quantized"}
    assert found["activation-dtype"].severity == "error"
    assert found["output-not-quantized"].node == "Conv_3"
    assert found["output-not-quantized"].severity == "warning"


QUANTIZED_OUTPUT = ("yq = QuantizeLinear (c, s, z)", "y = DequantizeLinear (yq, s, z)")


@pytest.mark.parametrize(
    ("bias", "message"),
    [
        ("", "float bias"),
        ("bf = DequantizeLinear <axis=0> (b, sb)", None),
        ("bf = DequantizeLinear <axis=0> (b, sw)", "scale of input times weight"),
        ("bf = DequantizeLinear <axis=0> (b8, sb)", "not int32"),
    ],
)
def test_x86_bias(write, bias, message):
    text = body(
        INPUT, WEIGHT, bias, f"c = {CONV} (xf, wf, {'bf' if bias else 'fb'})", *QUANTIZED_OUTPUT
    )
    path = write(
        text,
        **X86,
        b=np.ones(4, np.int32),
        b8=np.ones(4, np.int8),
        sb=np.float32(0.1) * NUMBERS["sw"],
        fb=np.ones(4, np.float32),
    )
    found = lint(path, "x86-vnni")
    assert [f.rule for f in found] == ([] if message is None else ["int32-bias"])
    assert message is None or message in found[0].message


def test_weights_beyond_the_bits_of_a_scheme(write):
    from edgevision.export import load_onnx
    from edgevision.quantization.lint import lint_model

    text = body(INPUT, WEIGHT, f"c = {CONV} (xf, wf)", *QUANTIZED_OUTPUT)
    for value, rules in ((63, []), (64, ["weight-range"])):
        model = load_onnx(write(text, **X86, w=np.full_like(W, value)))
        assert [finding.rule for finding in lint_model(model, get_scheme("x86"))] == rules
    text = body(INPUT, ROUNDED, f"c = {CONV} (xf, wf)", *QUANTIZED_OUTPUT)
    for value, rules in ((0.63, []), (0.64, ["weight-range"])):
        model = load_onnx(write(text, **X86, w=np.full(W.shape, value, np.float32)))
        assert [finding.rule for finding in lint_model(model, get_scheme("x86"))] == rules


def test_finding_reads_well(write):
    text = str(lint(write(GOOD.replace("axis=0", "axis=1")), "tensorrt")[0])
    assert text.startswith("error: Conv_3: scales of the weights lie on axis 1, Conv wants axis 0")


def test_float_graph_and_no_graph(write, tmp_path):
    assert lint(write(body("y = Relu (x)")), "tensorrt") == []
    with pytest.raises(ModelError, match="No ONNX file"):
        lint(tmp_path / "none.onnx", "tensorrt")


def test_every_message_says_what_to_do(write):
    ways_out = ("wants", "takes", "knows", "give", "make", "use", "keep", "quantize", "move")
    ways_out += ("leave", "share", "calibrate", "not int8")
    for rule, text, changes, _ in BAD.values():
        told = [f.message for f in lint(write(text, **changes), "tensorrt") if f.rule == rule]
        assert all(any(way in message for way in ways_out) for message in told), told


def test_the_default_graph_of_another_tool_is_refused_for_tensorrt(make_model, tmp_path, random):
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self):
            images = random.normal(size=(4, 1, 4, 8, 8)).astype(np.float32)
            self.feeds = iter([{"x": image} for image in images])

        def get_next(self):
            return next(self.feeds, None)

    model = make_model(
        body(f"c = {CONV} (x, k, b)", "a = Add (c, x)", "r = Relu (a)", f"y = {CONV} (r, k, b)"),
        k=random.normal(size=(4, 4, 3, 3)).astype(np.float32),
        b=random.normal(size=4).astype(np.float32),
    )
    save_onnx(model, tmp_path / "float.onnx")
    quantized = tmp_path / "quantized.onnx"
    quantize_static(str(tmp_path / "float.onnx"), str(quantized), Reader(), per_channel=True)
    found = {finding.rule for finding in lint(quantized, "tensorrt")}
    assert {"float-bias", "both-add-branches"} <= found
