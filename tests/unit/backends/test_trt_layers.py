from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgevision.backends._trt_layers import layers_from_inspector, layers_from_log
from edgevision.backends.onnx_file import read_onnx
from edgevision.errors import InputError
from tests.conformance.graphs import float_net

# Lines as TensorRT-RTX 1.7.1 logged them, shapes shortened.
LOG = """Layers:
Name: __mye153_0_myl0_0, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], \
TacticName: , StreamId: 0, Metadata:
Name: /a, b [x]/conv_myl0_2, LayerType: correlation, Inputs: [ { Name: q, Dimensions: [-1,4], \
Datatype: Int8, Format: (NHWC) Channel major format }], Constants: [ { Name: w, Dimensions: [16], \
Datatype: Int8, Format: x }, { Name: s, Datatype: Float, Format: x }], Outputs: [ { Name: y, \
Datatype: Float, Format: x }], TacticName: __myelin_CASK_STUB, StreamId: 0, \
Metadata: [ONNX Layer: conv]\x1f[ONNX Layer: xd]
Name: __myl_FcAdd_myl0_10, LayerType: runtime_fusion, Inputs: [ { Name: a, Datatype: Half, \
Format: x }], Constants: [], Outputs: [ { Name: b, Datatype: Half, Format: x }], TacticName: t, \
StreamId: 0, Metadata: [ONNX Layer: gemm]
Name: __myl_CastMul_myl0_5, LayerType: kgen, Inputs: [], Constants: [ { Name: c, \
Datatype: Float, Format: x }], Outputs: [ { Name: m, Datatype: Int8, Format: x }], TacticName: k, \
StreamId: 0, Metadata: [ONNX Layer: conv]

I/O Tensors:
 Name: x, IOMode: Input, DataType: Float, Dimensions: [-1,3,16,16]
"""


def test_the_log_gives_operator_and_precision(tmp_path: Path) -> None:
    layers = layers_from_log(LOG, read_onnx(float_net(tmp_path / "net.onnx")))
    assert [(layer.name, layer.operator, layer.precision) for layer in layers] == [
        ("__mye153_0_myl0_0", "shape_call", "none"),
        ("/a, b [x]/conv_myl0_2", "Conv", "int8"),
        ("__myl_FcAdd_myl0_10", "Gemm", "fp16"),
        ("__myl_CastMul_myl0_5", "kgen", "fp32"),
    ]


def test_without_the_graph_the_vendor_name_decides() -> None:
    assert [layer.operator for layer in layers_from_log(LOG)] == [
        "shape_call",
        "Conv",
        "Gemm",
        "kgen",
    ]


def test_a_listing_worded_otherwise_is_no_empty_report() -> None:
    with pytest.raises(InputError, match="No layer"):
        layers_from_log("Layers:\n#1 conv\n")


@pytest.mark.parametrize(
    ("words", "precision"),
    [
        ({"Format/Datatype": "Four wide channel vectorized row major Int8 format"}, "int8"),
        ({"Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}, "fp16"),
        ({"Format/Datatype": "Row major linear FP32"}, "fp32"),
        ({"Format/Datatype": "Row major linear BFloat16 format"}, "bf16"),
        ({"Datatype": "Int8", "Format": "NC/32HW32"}, "int8"),
        ({"Datatype": "Half", "Format": "Row major linear FP32"}, "fp16"),
        ({"Datatype": "Float"}, "fp32"),
    ],
)
def test_the_inspector_says_the_type_in_other_words_by_version(
    words: dict[str, str], precision: str
) -> None:
    report = {
        "Layers": [
            {"Name": "conv", "LayerType": "CaskConvolution", "Inputs": [words], "Outputs": []}
        ],
        "Bindings": ["x"],
    }
    (layer,) = layers_from_inspector(json.dumps(report))
    assert (layer.operator, layer.precision) == ("Conv", precision)


def test_an_engine_without_details_gives_names_only() -> None:
    (layer,) = layers_from_inspector('{"Layers": ["conv + relu"]}')
    assert (layer.name, layer.precision) == ("conv + relu", "unknown")


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "not json"])
def test_a_report_without_layers_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="no layers"):
        layers_from_inspector(text)
