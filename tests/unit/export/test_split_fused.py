"""Files that ONNX Runtime optimized, adopted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from edgevision.errors import ModelError
from edgevision.export.adopt import adopt
from tests.unit.export.conftest import Save
from tests.unit.export.test_adopt import operators

ACTIVATIONS = {
    "Relu": "r = Relu (c)",
    "LeakyRelu": "r = LeakyRelu <alpha=0.2> (c)",
    "HardSigmoid": "r = HardSigmoid <alpha=0.3, beta=0.4> (c)",
    "Clip": "r = Clip (c, low, high)",
    "Tanh": "r = Tanh (c)",
    "Sigmoid, Mul": "g = Sigmoid (c)  r = Mul (c, g)",
}


@pytest.mark.parametrize("after", ACTIVATIONS)
def test_what_onnx_runtime_fused_is_standard_again(
    save: Save, weight: np.ndarray, tmp_path: Path, after: str
) -> None:
    path = save(
        "(float[n,3,8,8] x) => (float[n,10] y) "
        f"{{ c = Conv <pads=[1,1,1,1]> (x, w)  {ACTIVATIONS[after]}"
        "  p = GlobalAveragePool (r)  f = Flatten (p)  d = Gemm (f, v, b)  y = Relu (d) }",
        w=weight,
        v=np.linspace(-1, 1, 60, dtype=np.float32).reshape(6, 10),
        b=np.ones(10, np.float32),
        low=np.array(-0.5, np.float32),
        high=np.array(0.5, np.float32),
    )
    fused = optimized(path, tmp_path, "ORT_ENABLE_EXTENDED")
    domains = [node.domain for node in onnx.load(fused).graph.node]
    assert domains.count("com.microsoft") == 2
    adopted = adopt(fused)
    assert {node.domain for node in adopted.model.graph.node} == {""}
    assert sorted(operators(adopted)) == sorted(
        ["Conv", *after.split(", "), "GlobalAveragePool", "Flatten", "Gemm", "Relu"]
    )
    assert adopted.check.max_rel < 1e-6


def optimized(path: Path, folder: Path, level: str) -> Path:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return folder / "optimized.onnx"


@pytest.mark.parametrize("opset", [9, 18])
def test_fused_layers_without_names(
    save: Save, weight: np.ndarray, tmp_path: Path, opset: int
) -> None:
    clip = "Clip <min=0.0, max={0}>" if opset < 11 else "Clip"
    limits = ["", ""] if opset < 11 else [", zero, one", ", zero, six"]
    path = save(
        "(float[n,3,8,8] x) => (float[n,6,8,8] y) "
        f"{{ c = Conv <pads=[1,1,1,1]> (x, w)  r = {clip.format(1.0)} (c{limits[0]})"
        f"  d = Conv (r, v)  y = {clip.format(6.0)} (d{limits[1]}) }}",
        opset,
        w=weight,
        v=(weight[:, :1, 0, 0] * weight[:, 1, 0, 0])[:, :, None, None] * 9,
        zero=np.array(0, np.float32),
        one=np.array(1, np.float32),
        six=np.array(6, np.float32),
    )
    fused = optimized(path, tmp_path, "ORT_ENABLE_EXTENDED")
    assert [n.op_type for n in onnx.load(fused).graph.node] == ["FusedConv"] * 2
    adopted = adopt(fused)
    assert operators(adopted) == ["Conv", "Clip", "Conv", "Clip"]
    assert adopted.check.max_rel < 1e-6


@pytest.mark.parametrize(
    "activation", ["Selu <alpha=1.2, gamma=0.7>", "ThresholdedRelu <alpha=0.3>", "Elu <alpha=0.4>"]
)
def test_parameters_of_what_follows_a_fused_gemm(
    save: Save, tmp_path: Path, activation: str
) -> None:
    path = save(
        "(float[n,3,2,2] x) => (float[n,5] y) "
        f"{{ f = Flatten (x)  d = Gemm (f, v, b)  y = {activation} (d) }}",
        v=np.linspace(-1, 1, 60, dtype=np.float32).reshape(12, 5),
        b=np.linspace(-1, 1, 5, dtype=np.float32),
    )
    fused = optimized(path, tmp_path, "ORT_ENABLE_EXTENDED")
    adopted = adopt(fused)
    assert operators(adopted)[1:] == ["Gemm", activation.split()[0]]
    assert adopted.check.max_rel < 1e-6


def test_a_file_in_one_processor_s_layout_is_refused(save: Save, tmp_path: Path) -> None:
    path = save(
        "(float[n,3,8,8] x) => (float[n,32,8,8] y) { y = Conv <pads=[1,1,1,1]> (x, w) }",
        w=np.ones((32, 3, 3, 3), np.float32),
    )
    blocked = optimized(path, tmp_path, "ORT_ENABLE_ALL")
    if not any(node.domain for node in onnx.load(blocked).graph.node):
        pytest.skip("ONNX Runtime has no layout of its own on this processor")
    with pytest.raises(ModelError, match="own layout"):
        adopt(blocked)


def test_what_a_fused_layer_adds_comes_before_its_activation(
    save: Save, weight: np.ndarray
) -> None:
    path = save(
        "(float[n,3,8,8] x) => (float[n,6,8,8] y) "
        "{ a = Conv <pads=[1,1,1,1]> (x, w)  y = Conv <pads=[1,1,1,1]> (x, w, b) }",
        w=weight,
        b=np.ones(6, np.float32),
    )
    model = onnx.load(path)
    fused = model.graph.node[1]
    fused.op_type, fused.domain = "FusedConv", "com.microsoft"
    fused.input.append("a")
    fused.attribute.append(helper.make_attribute("activation", "Relu"))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, path)
    adopted = adopt(path)
    assert operators(adopted) == ["Conv", "Conv", "Add", "Relu"]
    assert adopted.check.max_rel < 1e-6
