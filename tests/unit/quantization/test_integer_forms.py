from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest

from edgevision.export.graph import Graph
from edgevision.export.loading import load_onnx, save_onnx
from edgevision.export.passes.fold_constants import fold_constants
from edgevision.export.passes.identity import drop_identities
from edgevision.export.passes.remove_qdq import remove_qdq
from edgevision.export.passes.restore_gates import restore_gates
from edgevision.quantization import calibrate, emit
from edgevision.quantization.integer_forms import GATE_STEPS, useful_range
from edgevision.quantization.placement import node_name

IN = "(float[n,4,6,6] x) => (float[n,4,6,6] y)"


def eye():
    return np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1)


def run(path, x, *, optimise):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@pytest.fixture
def emitted(make_model, tmp_path):
    def make(body, x, scheme, **arrays):
        save_onnx(make_model(IN + body, w=eye(), **arrays), tmp_path / "float.onnx")
        table = calibrate(tmp_path / "float.onnx", [x], method="minmax", threads=1)
        emit(tmp_path / "float.onnx", table, scheme, tmp_path / "q.onnx")
        return tmp_path / "float.onnx", tmp_path / "q.onnx", table

    return make


@pytest.mark.parametrize("scheme", ["x86-vnni", "x86", "arm"])
@pytest.mark.parametrize("optimise", [True, False])
def test_hard_swish_on_integers_is_hard_swish(emitted, scheme, optimise):
    x = np.linspace(-9, 6, 8 * 144, dtype=np.float32).reshape(8, 4, 6, 6)
    source, path, table = emitted("{ a = Conv (x, w)  y = HardSwish (a) }", x, scheme)
    assert not operators(path)["HardSwish"]
    want, got = run(source, x, optimise=optimise), run(path, x, optimise=optimise)
    # The input's step counts one and a half times where the slope is steepest; -9 and -3 give 0.
    step_in, step_gate, step_out = 15 / 255, 1 / GATE_STEPS, (6 + 0.375) / 255
    bound = 1.5 * step_in / 2 + 6 * step_gate / 2 + step_out
    assert np.abs(want - got).max() < bound
    assert np.abs(got[x < -3.2]).max() <= step_out
    assert table.tensors["a"].low == -3


def test_a_small_value_keeps_its_gain(emitted):
    # A gate of a half that were rounded up would make every layer a little louder.
    x = np.linspace(-0.02, 0.02, 144, dtype=np.float32).reshape(1, 4, 6, 6)
    source, path, _ = emitted("{ a = Conv (x, w)  y = HardSwish (a) }", x, "x86-vnni")
    want, got = run(source, x, optimise=True), run(path, x, optimise=True)
    assert (want * got).sum() / (want**2).sum() == pytest.approx(1, abs=2e-3)


def operators(path):
    return Counter(node.op_type for node in load_onnx(path).graph.node)


def test_hard_sigmoid_with_its_own_line(emitted):
    x = np.linspace(-9, 9, 144, dtype=np.float32).reshape(1, 4, 6, 6)
    body = "{ a = Conv (x, w)  h = HardSigmoid <alpha=0.25, beta=0.4> (a)  y = Mul (a, h) }"
    source, path, table = emitted(body, x, "x86-vnni")
    assert not operators(path)["HardSigmoid"]
    assert np.abs(run(source, x, optimise=True) - run(path, x, optimise=True)).max() < 0.12
    # The product reads the input, too, so its range is all of it.
    assert table.tensors["a"].low == -9


@pytest.mark.parametrize("line", ["alpha=-0.2, beta=0.5", "alpha=0.2, beta=0.0"])
def test_a_line_that_integers_cannot_hold_stays_in_float(emitted, line):
    x = np.linspace(-9, 9, 144, dtype=np.float32).reshape(1, 4, 6, 6)
    body = f"{{ a = Conv (x, w)  h = HardSigmoid <{line}> (a)  y = Conv (h, w) }}"
    source, path, _ = emitted(body, x, "x86-vnni")
    assert operators(path)["HardSigmoid"] == 1
    assert np.abs(run(source, x, optimise=True) - run(path, x, optimise=True)).max() < 0.02


def test_hard_sigmoid_stays_in_float_where_its_integers_end_elsewhere(make_model, tmp_path):
    x = np.linspace(-9, 9, 144, dtype=np.float32).reshape(1, 4, 6, 6)
    body = "{ a = Conv (x, w)  h = HardSigmoid (a)  y = Conv (h, w) }"
    save_onnx(make_model(IN + body, w=eye()), tmp_path / "f.onnx")
    table = calibrate(tmp_path / "f.onnx", [x], method="minmax", threads=1)
    wide = replace(table.tensors["h"], high=2.0, maximum=2.0)  # as training may have learned it
    for ranges, left in ((table.tensors["h"], 0), (wide, 1)):
        changed = replace(table, tensors={**table.tensors, "h": ranges})
        emit(tmp_path / "f.onnx", changed, "x86-vnni", tmp_path / "q.onnx")
        assert operators(tmp_path / "q.onnx")["HardSigmoid"] == left


def test_hard_swish_stays_in_float_where_its_input_goes_on_below(emitted):
    # Another reader needs what is below -3, where 254 steps would not end at 0.
    x = np.linspace(-30, 6, 144, dtype=np.float32).reshape(1, 4, 6, 6)
    body = "{ a = Conv (x, w)  h = HardSwish (a)  y = Add (a, h) }"
    source, path, _ = emitted(body, x, "x86-vnni")
    assert operators(path)["HardSwish"] == 1
    assert np.abs(run(source, x, optimise=True) - run(path, x, optimise=True)).max() < 0.25


def test_an_activation_behind_it_leaves_it_in_float_and_says_so(make_model, tmp_path):
    x = np.linspace(-4, 4, 144, dtype=np.float32).reshape(1, 4, 6, 6)
    body = "{ a = Conv (x, w)  h = HardSwish (a)  r = Relu (h)  y = Conv (r, w) }"
    save_onnx(make_model(IN + body, w=eye()), tmp_path / "f.onnx")
    table = calibrate(tmp_path / "f.onnx", [x], method="minmax", threads=1)
    nodes = emit(tmp_path / "f.onnx", table, "x86-vnni", tmp_path / "q.onnx").nodes
    assert (nodes[1].asked, operators(tmp_path / "q.onnx")["HardSwish"]) == ("float", 1)


def test_a_graph_that_uses_the_names_already(emitted):
    x = np.linspace(-4, 4, 144, dtype=np.float32).reshape(1, 4, 6, 6)
    body = "{ a = Conv (x, w)  h = HardSwish (a)  g = Conv (h, w)  y = Add (g, h) }"
    source, path, _ = emitted(body.replace("g", "h_gate"), x, "x86-vnni")
    assert np.abs(run(source, x, optimise=True) - run(path, x, optimise=True)).max() < 0.1


def test_what_was_written_out_is_adopted_as_what_it_was(emitted):
    x = np.random.default_rng(0).normal(size=(4, 4, 6, 6)).astype(np.float32) * 3
    body = (
        "{ a = Conv (x, w)  h = HardSwish (a)  b = Conv (h, w)"
        "  s = HardSigmoid <alpha=0.25, beta=0.4> (b)  y = Mul (h, s) }"
    )
    source, path, _ = emitted(body, x, "x86-vnni")
    assert not operators(path)["HardSwish"] + operators(path)["HardSigmoid"]
    model = load_onnx(path)
    fold_constants(model)
    assert restore_gates(model) == 2
    remove_qdq(model)
    drop_identities(model)
    save_onnx(model, path)
    found = operators(path)
    assert (found["HardSwish"], found["HardSigmoid"], found["Add"]) == (1, 1, 0)
    want, got = run(source, x, optimise=True), run(path, x, optimise=True)
    assert np.abs(want - got).max() < 0.02 * np.abs(want).max(), "weights are rounded, no more"


def test_float_neighbours_leave_it_in_float(make_model, tmp_path):
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 6)).astype(np.float32)
    model = make_model(IN + "{ a = Conv (x, w)  b = HardSwish (a)  y = Conv (b, w) }", w=eye())
    save_onnx(model, tmp_path / "f.onnx")
    table = calibrate(tmp_path / "f.onnx", [x], method="minmax", threads=1)
    kept = {node_name(node): "so" for node in model.graph.node if node.op_type == "HardSwish"}
    emit(tmp_path / "f.onnx", table, "x86-vnni", tmp_path / "q.onnx", keep_float=kept)
    assert "HardSwish" in {node.op_type for node in load_onnx(tmp_path / "q.onnx").graph.node}
    emit(tmp_path / "f.onnx", table, "tensorrt", tmp_path / "t.onnx")
    assert "HardSwish" in {node.op_type for node in load_onnx(tmp_path / "t.onnx").graph.node}


def test_useful_range_is_what_every_reader_needs(make_model):
    body = "{ a = Conv (x, w)  b = HardSwish (a)  c = HardSigmoid (a)  y = Mul (b, c) }"
    model: onnx.ModelProto = make_model(IN + body, w=eye())
    assert useful_range(Graph(model), "a") == pytest.approx((-3, np.inf))
    assert useful_range(Graph(model), "b") == (-np.inf, np.inf)
    assert useful_range(Graph(model), "y") == (-np.inf, np.inf)
    model.graph.output.add().CopyFrom(onnx.ValueInfoProto(name="a"))
    assert useful_range(Graph(model), "a") == (-np.inf, np.inf)
    del model.graph.output[1:]
    model.graph.node[1].op_type = "HardSigmoid"
    assert useful_range(Graph(model), "a") == pytest.approx((-2.5, 2.5))
