"""Layers of real backends matched with the nodes of the graph they were given."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from edgevision.backends import get_backend
from edgevision.backends.base import Artifact, BuildOptions
from edgevision.backends.onnx_file import OnnxNode, read_onnx
from edgevision.benchmark.report_schema import LayerRow
from edgevision.export import load_onnx, save_onnx
from edgevision.pipeline.layers import layer_rows
from edgevision.pipeline.matching import match_layers, node_label
from edgevision.quantization import calibrate, emit, get_scheme
from edgevision.quantization.diagnosis import node_facts
from edgevision.quantization.sensitivity import layer_noise
from edgevision.types import LayerInfo

TEXT = (
    "(float[n,3,16,16] x) => (float[n,5] y) "
    "{ a = Conv <pads=[1,1,1,1]> (x, w1, b1)  r = Relu (a)"
    "  d = Conv <pads=[1,1,1,1], group=16> (r, w2, b2)  h = HardSwish (d)"
    "  c = Conv (h, w3, b3)  q = Add (c, r)  s = Relu (q)"
    "  g = GlobalAveragePool (s)  f = Flatten (g)  y = Gemm <transB=1> (f, w4, b4) }"
)
SHAPES = {"w1": (16, 3, 3, 3), "b1": 16, "w2": (16, 1, 3, 3), "b2": 16, "w3": (16, 16, 1, 1)}
SHAPES |= {"b3": 16, "w4": (5, 16), "b4": 5}


@pytest.fixture(scope="module", params=["Conv_{}", "node_conv2d_{}", ""])
def network(request, tmp_path_factory):
    """Float file, table and images; the nodes are named in three ways, one of them not at all."""
    random = np.random.default_rng(0)
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> main {TEXT}')
    for name, shape in SHAPES.items():
        values = random.normal(size=shape).astype(np.float32) * 0.4
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    for number, node in enumerate(model.graph.node):
        # Such as exporters give: one name may begin with another.
        node.name = request.param.format(number).removesuffix("_0")
    path = tmp_path_factory.mktemp("net") / "float.onnx"
    save_onnx(model, path)
    images = random.normal(size=(3, 3, 16, 16)).astype(np.float32)
    return path, calibrate(path, [images], threads=1), images


def rows(network, scheme, backend, folder):
    path, table, images = network
    report = emit(path, table, scheme, folder / "q.onnx")
    noise = layer_noise(path, table, scheme, images, threads=1)
    facts = node_facts(load_onnx(path), table, get_scheme(scheme), report.nodes, noise)
    asked = [LayerRow(**asdict(fact)) for fact in facts]
    if get_backend(backend).artifact_suffix == ".onnx":
        artifact = Artifact(backend, folder / "q.onnx")
    else:
        options = BuildOptions(compute_capabilities=("86",))
        artifact = get_backend(backend).build(folder / "q.onnx", folder / "e.engine", options)
    layers = get_backend(backend).layer_report(artifact)
    return asked, layers, layer_rows(asked, layers, folder / "q.onnx")


def test_onnxruntime_accounts_for_every_node_and_all_time(network, tmp_path):
    asked, layers, found = rows(network, "x86-vnni", "onnxruntime", tmp_path)
    nodes = [row for row in found if row.asked is not None]
    assert [row.name for row in nodes] == [row.name for row in asked], "in the graph's order"
    conv, relu, depthwise, swish, last = nodes[:5]
    assert [row.used for row in (conv, depthwise, last)] == ["int8"] * 3
    assert (relu.used, relu.time_ms) == ("int8", None)
    assert relu.layer, "it vanished into the first convolution's layer"
    assert swish.used == "int8"
    both = [layer for layer in layers if layer.name in (swish.name, f"{swish.name}::gate")]
    assert len(both) == 2, "the gate and the product"
    assert swish.time_ms == pytest.approx(sum(layer.time_ms for layer in both))
    assert depthwise.trait == "depthwise"
    assert conv.trait == "3 input channels"
    assert all(row.sqnr_db is not None for row in nodes if row.asked == "int8")
    total = sum(layer.time_ms for layer in layers)
    assert sum(row.time_ms or 0 for row in found) == pytest.approx(total)
    kinds = {row.operator for row in found if row.asked is None}
    assert kinds <= {"QuantizeLinear", "DequantizeLinear", "Transpose"}


def test_onnxruntime_float_graph_with_blocked_layouts(network, tmp_path):
    path, _, _ = network
    layers = get_backend("onnxruntime").layer_report(Artifact("onnxruntime", path))
    nodes = read_onnx(path).nodes
    matches = match_layers(nodes, layers)
    assert len(matches) == len(nodes)
    owners = [matches[node_label(node)].owned for node in nodes if node.operator == "Conv"]
    assert owners == [[0], [1], [2]], "each has a kernel of its own"


def test_openvino_names_every_node_that_it_computes(network, tmp_path):
    backend = get_backend("openvino")
    if not backend.can_run().ok:
        pytest.skip(backend.can_run().reason)
    asked, layers, found = rows(network, "openvino", "openvino", tmp_path)
    nodes = [row for row in found if row.asked is not None]
    assert [row.name for row in nodes] == [row.name for row in asked], "in the graph's order"
    assert all(row.used == "int8" for row in nodes if row.operator == "Conv")
    assert all(row.used for row in nodes), "each is found in some layer"
    assert all(row.time_ms is not None for row in nodes if row.operator in ("Conv", "Gemm"))
    total = sum(layer.time_ms or 0 for layer in layers)
    assert sum(row.time_ms or 0 for row in found) == pytest.approx(total)


def test_tensorrt_rtx_names_every_node(network, tmp_path):
    backend = get_backend("tensorrt_rtx")
    if not backend.is_available().ok:
        pytest.skip(backend.is_available().reason)
    asked, layers, found = rows(network, "tensorrt", "tensorrt_rtx", tmp_path)
    nodes = [row for row in found if row.asked is not None]
    assert [row.name for row in nodes] == [row.name for row in asked]
    assert all(row.used == "int8" for row in nodes if row.operator in ("Conv", "Gemm"))
    assert all(row.used for row in nodes), "each is found in some layer"
    assert any(layer.nodes for layer in layers)
    for row in nodes:
        if row.asked == "int8" and row.used != "int8":
            assert row.reason.startswith(("precision not honoured", "fused into"))


def test_names_that_begin_alike_or_are_joined():
    nodes = [
        OnnxNode("node_conv", "Conv", "", ("a",), ("x",)),
        OnnxNode("node_conv_1", "Conv", "", ("b",), ("a",)),
        OnnxNode("node_relu", "Relu", "", ("c",), ("b",)),
        OnnxNode("node_conv_1_quant_1", "Conv", "", ("d",), ("c",)),
    ]
    layers = [
        LayerInfo("node_conv_quant", "QLinearConv", "int8", 1.0),
        LayerInfo("node_conv_1 + node_relu", "Conv", "int8", 2.0),
        LayerInfo("node_conv_1_quant_1_token_7", "Conv", "fp32", 8.0),
    ]
    matches = match_layers(nodes, layers)
    assert {name: (m.layers, m.owned, m.fused) for name, m in matches.items()} == {
        "node_conv": ([0], [0], False),
        "node_conv_1": ([1], [1], False),
        "node_relu": ([1], [], False),
        "node_conv_1_quant_1": ([2], [2], False),
    }
