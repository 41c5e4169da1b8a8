"""Kernels of real ONNX Runtime sessions, told of the nodes that they came from."""

from __future__ import annotations

import numpy as np
import pytest

from edgevision.backends import get_backend
from edgevision.errors import ModelError
from edgevision.export import save_onnx
from edgevision.quantization import calibrate, emit
from edgevision.quantization.timing import (
    QDQ,
    conversion_time,
    kernel_timer,
    reported_kernels,
    time_kernels,
)


def weights(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32) * 0.3


@pytest.fixture
def paths(make_model, tmp_path):
    """A residual block with hard-swish and squeeze-and-excite, float and x86-vnni."""
    model = make_model(
        "(float[n,8,16,16] x) => (float[n,8,16,16] y) "
        "{ a = Conv <pads=[1,1,1,1]> (x, w1, b)  h = HardSwish (a)"
        "  d = Conv <pads=[1,1,1,1], group=8> (h, w2, b)  r = Relu (d)"
        "  g = GlobalAveragePool (r)  s = Conv (g, w3, b)  e = HardSigmoid (s)"
        "  m = Mul (r, e)  p = Conv (m, w3, b)  y = Add (p, h) }",
        w1=weights(8, 8, 3, 3),
        w2=weights(8, 1, 3, 3, seed=1),
        w3=weights(8, 8, 1, 1, seed=2),
        b=weights(8, seed=3),
    )
    for index, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{index}"
    path = tmp_path / "float.onnx"
    save_onnx(model, path)
    x = np.random.default_rng(5).normal(size=(4, 8, 16, 16)).astype(np.float32)
    table = calibrate(path, [x], method="minmax", threads=1)
    emit(path, table, "x86-vnni", tmp_path / "int8.onnx")
    return path, tmp_path / "int8.onnx", {"x": x[:1]}


def owned(kernels):
    return {name: k.operator for k in kernels for name in k.nodes}


def test_every_float_node_has_the_kernel_that_computes_it(paths):
    path, _, feeds = paths
    kernels = time_kernels(path, feeds, threads=1, runs=4)
    where = [(name, k) for k in kernels for name in k.nodes if "Reorder" not in k.operator]
    assert sorted(name for name, _ in where) == [
        "Add_9", "Conv_0", "Conv_2", "Conv_5", "Conv_8",
        "GlobalAveragePool_4", "HardSigmoid_6", "HardSwish_1", "Mul_7", "Relu_3",
    ]  # fmt: skip
    kernel = dict(where)
    # What ONNX Runtime fuses into a layer belongs to that layer, not to the one that reads it.
    assert kernel["HardSwish_1"] is kernel["Conv_0"]
    assert kernel["Relu_3"] is kernel["Conv_2"]
    assert not any(k.integer for k in kernels)
    assert all(k.nodes and k.microseconds > 0 for k in kernels)


def test_silu_between_layers_is_one_kernel_of_its_own(make_model, tmp_path):
    model = make_model(
        "(float[1,16,16,16] x) => (float[1,16,16,16] y) "
        "{ a = Conv <pads=[1,1,1,1]> (x, w)  g = Sigmoid (a)  s = Mul (a, g)"
        "  c = Conv <pads=[1,1,1,1]> (s, w)  h = Sigmoid (c)  y = Mul (c, h) }",
        w=weights(16, 16, 3, 3),
    )
    for index, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{index}"
    path = tmp_path / "float.onnx"
    save_onnx(model, path)
    feeds = {"x": np.zeros((1, 16, 16, 16), np.float32)}
    kernels = time_kernels(path, feeds, threads=1, runs=2)
    parts = {k.nodes for k in kernels if "Reorder" not in k.operator}
    whole = [{"Conv_0"}, {"Sigmoid_1", "Mul_2"}, {"Conv_3"}, {"Sigmoid_4", "Mul_5"}]
    assert parts == set(map(frozenset, whole))


def test_integer_kernels_and_what_is_written_out(paths):
    _, path, feeds = paths
    kernels = time_kernels(path, feeds, threads=1, runs=4)
    integer = [k for k in kernels if k.integer and k.operator not in QDQ]
    layers = {name for k in integer if k.operator == "QLinearConv" for name in k.nodes}
    assert {"Conv_0", "Conv_2", "Conv_5", "Conv_8", "Relu_3"} <= layers
    # Hard-swish and hard-sigmoid are written out; what they are made of still counts as theirs.
    swish = [k for k in kernels if "HardSwish_1" in k.nodes]
    assert {"QLinearAdd", "QLinearMul"} == {k.operator for k in swish}
    gate = [k for k in kernels if "HardSigmoid_6" in k.nodes]
    assert [k.operator for k in gate] == ["QLinearAdd"]
    assert all(k.integer for k in [*swish, *gate])


def test_a_backend_that_names_nodes_tells_its_kernels_itself(paths, tmp_path):
    backend = get_backend("openvino")
    if not backend.can_run().ok:
        pytest.skip(backend.can_run().reason)
    path, _, feeds = paths
    table = calibrate(path, [np.ones((1, 8, 16, 16), np.float32)], method="minmax", threads=1)
    int8 = tmp_path / "openvino.onnx"
    emit(path, table, "openvino", int8)
    floats = reported_kernels(backend, path, threads=1)
    assert {"Conv_0", "Conv_8", "Add_9"} <= set(owned(floats))
    assert not any(k.integer or k.operator in QDQ for k in floats)
    integers = kernel_timer(backend, 1)(int8, feeds)
    assert integers[0].operator == "QuantizeLinear", "the image is quantized first"
    layers = {name for k in integers if k.integer for name in k.nodes}
    assert {"Conv_0", "Conv_2", "Conv_8"} <= layers
    assert all(k.microseconds > 0 for k in integers if k.nodes & {"Conv_0", "Conv_8"})


def test_a_model_that_does_not_run_is_named(paths):
    path, _, _ = paths
    with pytest.raises(ModelError, match=r"float\.onnx: ONNX Runtime cannot run it"):
        time_kernels(path, {"x": np.zeros((1, 3, 16, 16), np.float32)}, threads=1, runs=1)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_converting_more_elements_takes_longer(backend):
    if not get_backend(backend).can_run().ok:
        pytest.skip(get_backend(backend).can_run().reason)
    once, each = conversion_time(kernel_timer(get_backend(backend), 1))
    assert once >= 0
    assert each > 0
