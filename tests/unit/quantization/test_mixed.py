from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from edgevision.backends import get_backend
from edgevision.export import save_onnx
from edgevision.export.graph import Graph
from edgevision.export.loading import load_onnx
from edgevision.quantization import calibrate, emit
from edgevision.quantization.mixed import _Timed, divisions
from edgevision.quantization.timing import Kernel, kernel_timer


def weights(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32) * 0.3


@pytest.fixture
def case(make_model, tmp_path):
    """Two convs worth integers, then a chain of hard-swish and depthwise that is not."""
    model = make_model(
        "(float[n,32,24,24] x) => (float[n,32,24,24] y) "
        "{ a = Conv <pads=[1,1,1,1]> (x, w1, b)  r = Relu (a)"
        "  c = Conv <pads=[1,1,1,1]> (r, w1, b)  h = HardSwish (c)"
        "  d = Conv <pads=[1,1,1,1], group=32> (h, w2, b)  k = HardSwish (d)"
        "  e = Conv <pads=[1,1,1,1], group=32> (k, w2, b)  y = HardSwish (e) }",
        w1=weights(32, 32, 3, 3),
        w2=weights(32, 1, 3, 3, seed=1),
        b=weights(32, seed=2),
    )
    for index, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{index}"
    path, int8 = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    save_onnx(model, path)
    x = np.random.default_rng(5).normal(size=(4, 32, 24, 24)).astype(np.float32)
    table = calibrate(path, [x], method="minmax", threads=1)
    emit(path, table, "x86-vnni", int8)
    return path, int8, table, {"x": x[:1]}


def kernel(operator, nodes, integer, microseconds):
    return Kernel(operator, frozenset(nodes), integer, microseconds)


def test_units_times_and_inner_conversions(case):
    """Hand-written kernels as ONNX Runtime makes them, so that every sum can be followed."""
    path, _, _, _ = case
    floats = [
        kernel("Conv", {"Conv_0", "Relu_1"}, False, 100),
        kernel("Conv", {"Conv_2", "HardSwish_3"}, False, 100),
        kernel("Conv", {"Conv_4", "HardSwish_5"}, False, 10),
        kernel("Conv", {"Conv_6", "HardSwish_7"}, False, 10),
    ]
    integers = [
        kernel("QuantizeLinear", {"x_QuantizeLinear"}, False, 7),
        kernel("QLinearConv", {"Conv_0", "Relu_1"}, True, 30),
        kernel("QLinearConv", {"Conv_2"}, True, 30),
        kernel("DequantizeLinear", {"c_QuantizeLinear", "c_DequantizeLinear"}, True, 3),
        kernel("HardSigmoid", {"HardSwish_3"}, False, 4),
        kernel("Mul", {"HardSwish_3"}, False, 5),
        kernel("QuantizeLinear", {"h_QuantizeLinear"}, False, 6),
        kernel("QLinearConv", {"Conv_4"}, True, 20),
        kernel("QLinearConv", {"Conv_6"}, True, 20),
    ]
    timed = _Timed(Graph(load_onnx(path)), floats, integers)
    unit = timed.unit["Conv_2"]
    assert unit == timed.unit["HardSwish_3"] != timed.unit["Conv_0"]
    costs = timed.costs()
    assert (costs[timed.unit["Conv_0"]].floating, costs[timed.unit["Conv_0"]].integer) == (100, 30)
    # Conv, the way back, HardSigmoid and Mul in float, and quantizing for the next layer.
    assert (costs[unit].floating, costs[unit].integer) == (100, 30 + 3 + 4 + 5 + 6)
    links = {link.producer: link for link in timed.links(dict.fromkeys([*"xarchdkey", "w1"], 2.0))}
    assert links[None].consumers == (timed.unit["Conv_0"],)
    assert links[timed.unit["Conv_6"]].consumers == (None,)
    assert unit in links[timed.unit["Conv_0"]].consumers
    assert timed.reason(timed.unit["Conv_4"]) == "slower in INT8 here: 20 against 10 us"


def test_divisions_keep_integers_where_they_pay(case, tmp_path):
    path, int8, table, feeds = case
    found = divisions(path, int8, "x86-vnni", feeds, kernel_timer(get_backend("onnxruntime"), 1))
    assert len({frozenset(d.keep_float) for d in found}) == len(found)
    for number, division in enumerate(found):
        assert not division.integer & division.keep_float.keys()
        output = tmp_path / f"{number}.onnx"
        report = emit(path, table, "x86-vnni", output, keep_float=division.keep_float)
        asked = {node.name: node.asked for node in report.nodes}
        assert all(asked[name] == "float" for name in division.keep_float)
        outputs = [onnxruntime.InferenceSession(str(p)).run(None, feeds)[0] for p in (path, output)]
        noise = ((outputs[0] - outputs[1]) ** 2).sum()
        assert 10 * np.log10((outputs[0] ** 2).sum() / noise) > 25
