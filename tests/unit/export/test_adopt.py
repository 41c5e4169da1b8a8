from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgevision.errors import ModelError
from edgevision.export.adopt import Adopted, adopt, image_input
from edgevision.export.graph import opset_of
from tests.unit.export.conftest import Save, W


def operators(adopted: Adopted) -> list[str]:
    return [node.op_type for node in adopted.model.graph.node]


def shape_of(value: onnx.ValueInfoProto) -> list[int | str]:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def run(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: x})


PLAIN = (
    "(float[{n},3,8,8] x) => (float[{n},6,8,8] y) "
    "{{ c = Conv <pads=[1,1,1,1]> (x, w)  y = Relu (c) }}"
)


@pytest.mark.parametrize("opset", range(11, 24))
def test_every_opset_from_11_to_23(save: Save, weight: np.ndarray, opset: int) -> None:
    done = adopt(save(PLAIN.format(n="n"), opset, w=weight), opset=18)
    assert opset_of(done.model) == min(max(opset, 13), 18)
    assert operators(done) == ["Conv", "Relu"]
    assert shape_of(done.model.graph.input[0]) == ["batch", 3, 8, 8]
    assert shape_of(done.model.graph.output[0]) == ["batch", 6, 8, 8]
    assert done.check.max_rel < 1e-6


def test_a_newer_operator_that_the_target_lacks_is_named(save: Save) -> None:
    path = save("(float[n,3,8,8] x) => (float[n,3,8,8] y) { y = Swish (x) }", 24)
    with pytest.raises(ModelError, match=r"from opset 24 to 18.*Swish"):
        adopt(path, opset=18)


def test_attributes_at_their_new_defaults_are_no_obstacle(save: Save) -> None:
    path = save(
        "(float[n,3,8,8] x) => (float[n,6,4,8] y) "
        "{ h = Cast <to=1, saturate=1> (x)  y = Reshape (h, s) }",
        21,
        s=np.array([0, 6, 4, 8], np.int64),
    )
    assert opset_of(adopt(path, opset=18).model) == 18


def test_constants_as_nodes_and_batchnorm_apart(save: Save, weight: np.ndarray) -> None:
    """A weight that is stored transposed, a bias as an Add, a scale as a Mul, a Dropout."""
    arrays = {
        "raw": np.ascontiguousarray(weight.transpose(2, 3, 1, 0)),
        "gamma": np.linspace(0.5, 2, 6, dtype=np.float32),
        "mean": np.linspace(-1, 1, 6, dtype=np.float32),
    }
    path = save(
        "(float[n,3,8,8] x) => (float[n,6,6,6] y) {"
        "w = Transpose <perm=[3,2,0,1]> (raw)  c = Conv (x, w)"
        "half = Constant <value=float[1,6,1,1] {0.5,0.25,0.5,0.25,0.5,0.25}> ()"
        "b = BatchNormalization (c, gamma, mean, mean, gamma)"
        "m = Mul (half, b)  a = Sub (m, half)  d = Dropout (a)  y = Relu (d) }",
        **arrays,
    )
    done = adopt(path)
    assert operators(done) == ["Conv", "Relu"]
    assert done.check.max_rel < 1e-5


def test_sum_of_two_becomes_add(save: Save, weight: np.ndarray) -> None:
    path = save(
        "(float[n,3,8,8] x) => (float[n,6,6,6] y) { a = Conv (x, w) b = Relu (a) y = Sum (a, b) }",
        w=weight,
    )
    assert operators(adopt(path)) == ["Conv", "Relu", "Add"]


@pytest.mark.parametrize("reshape", ["Reshape", "Reshape <allowzero=1>"])
def test_a_batch_of_one_is_freed_with_its_reshape(save: Save, random: Any, reshape: str) -> None:
    path = save(
        f"(float[1,3,4,4] x) => (float[1,5] y) {{ r = {reshape} (x, s) "
        "y = Gemm <transB=1> (r, w) }",
        s=np.array([1, 48], np.int64),
        w=random.normal(size=(5, 48)).astype(np.float32),
    )
    done = adopt(path)
    assert done.batch is None
    x = random.normal(size=(3, 3, 4, 4)).astype(np.float32)
    together = run(done.model, x)[0]
    alone = np.concatenate([run(onnx.load(path), one[None])[0] for one in x])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6)


def test_a_batch_that_cannot_be_freed_stays_one_and_is_said(save: Save) -> None:
    path = save(
        "(float[1,3,4,4] x) => (float[1,4,4,3] y) { r = Reshape (x, s) y = Mul (r, r) }",
        s=np.array([1, 4, 4, 3], np.int64),
    )
    assert adopt(path).batch is None
    mixes = save(
        "(float[1,3,4,4] x) => (float[1,3,4,4] y) { m = ReduceMean <keepdims=1> (x, a) "
        "y = Sub (x, m) }",
        a=np.array([0], np.int64),
    )
    done = adopt(mixes)
    assert done.batch == 1
    assert shape_of(done.model.graph.output[0]) == [1, 3, 4, 4]
    assert any("batch stays 1" in note for note in done.notes)


def test_a_larger_batch_is_freed_or_refused(save: Save, weight: np.ndarray) -> None:
    assert adopt(save(PLAIN.format(n=4), w=weight)).batch is None
    mixes = "(float[4,3,4,4] x) => (float[1,3,4,4] y) { y = ReduceSum (x, a) }"
    with pytest.raises(ModelError, match="batch is fixed to 4"):
        adopt(save(mixes, a=np.array([0], np.int64)))


def test_free_height_and_width_take_the_size_given(save: Save, weight: np.ndarray) -> None:
    text = "(float[n,3,h,w] x) => (float[n,6,p,q] y) { y = Conv (x, k) }"
    done = adopt(save(text, k=weight), size=(10, 12))
    assert shape_of(done.model.graph.input[0]) == ["batch", 3, 10, 12]
    assert shape_of(done.model.graph.output[0]) == ["batch", 6, 8, 10]


@pytest.mark.parametrize("transposed", [True, False])
def test_channels_last_become_channels_first(
    save: Save, weight: np.ndarray, transposed: bool
) -> None:
    body = (
        "t = Transpose <perm=[0,3,1,2]> (x)  y = Conv (t, w)"
        if transposed
        else "s = Mul (x, scale)  t = Transpose <perm=[0,3,1,2]> (s)  y = Conv (t, w)"
    )
    path = save(
        f"(float[n,8,8,3] x) => (float[n,6,6,6] y) {{ {body} }}",
        w=weight,
        **({} if transposed else {"scale": np.array([1, 2, 3], np.float32)}),
    )
    done = adopt(path)
    assert shape_of(done.model.graph.input[0]) == ["batch", 3, 8, 8]
    assert done.image.layout == "NHWC"
    assert operators(done) == (
        ["Conv"] if transposed else ["Transpose", "Mul", "Transpose", "Conv"]
    )


def test_float16_becomes_float32(tmp_path: Path, weight: np.ndarray) -> None:
    """In a file format newer than ONNX Runtime reads, which nothing in the graph needs."""
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    half = TensorProto.FLOAT16
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", half, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", half, ["n", 6, 6, 6])],
        [numpy_helper.from_array(weight.astype(np.float16), "w")],
    )
    path = tmp_path / "half.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=14), path
    )
    done = adopt(path)
    kinds = {
        v.type.tensor_type.elem_type for v in [*done.model.graph.input, *done.model.graph.output]
    }
    assert kinds == {TensorProto.FLOAT}
    assert 0 < done.check.max_rel < 1e-2


QDQ = (
    "(float[n,3,8,8] x) => (float[n,6,6,6] y) {"
    "xq = QuantizeLinear (x, xs, xz)  xd = DequantizeLinear (xq, xs, xz)"
    "wd = DequantizeLinear <axis=0> (wq, ws, wz)  c = Conv (xd, wd)"
    "cq = QuantizeLinear (c, cs, cz)  y = DequantizeLinear (cq, cs, cz) }"
)


def quantized(weight: np.ndarray, zero: int) -> dict[str, np.ndarray]:
    scales = np.abs(weight).max(axis=(1, 2, 3)) / 127
    return {
        "xs": np.array(8 / 255, np.float32),
        "xz": np.array(128, np.uint8),
        "wq": np.round(weight / scales[:, None, None, None]).astype(np.int8),
        "ws": scales.astype(np.float32),
        "wz": np.zeros(6, np.int8),
        "cs": np.array(8 / 255, np.float32),
        "cz": np.array(zero, np.uint8),
    }


def test_qdq_is_taken_out_and_weights_stay_dequantized(save: Save, weight: np.ndarray) -> None:
    arrays = quantized(weight, 128)
    done = adopt(save(QDQ, **arrays))
    assert operators(done) == ["Conv"]
    kept = numpy_helper.to_array(done.model.graph.initializer[0])
    np.testing.assert_array_equal(kept, arrays["wq"] * arrays["ws"][:, None, None, None])
    assert done.check.sqnr_db is not None
    assert done.check.sqnr_db > 20
    assert any("4 Q/DQ" in n or "5 Q/DQ" in n for n in done.notes)


def test_weights_that_are_quantized_in_the_graph_keep_what_they_dequantize_to(
    save: Save, weight: np.ndarray
) -> None:
    """As quantization-aware training exports them: float weights, Q and DQ behind."""
    scale = np.array(0.05, np.float32)
    path = save(
        "(float[n,3,8,8] x) => (float[n,6,6,6] y) {"
        "q = QuantizeLinear (w, s, z)  d = DequantizeLinear (q, s, z)  y = Conv (x, d) }",
        w=weight,
        s=scale,
        z=np.array(0, np.int8),
    )
    done = adopt(path)
    kept = numpy_helper.to_array(done.model.graph.initializer[0])
    np.testing.assert_allclose(kept, np.round(weight / scale) * scale, atol=1e-7)
    assert done.check.max_rel < 1e-5


def test_the_relu_that_a_quantizer_dropped_comes_back(
    save: Save, weight: np.ndarray, random: Any
) -> None:
    """A range from zero on cuts negative values off: without the pair a Clip has to."""
    path = save(QDQ, **quantized(weight, 0))
    done = adopt(path)
    assert operators(done) == ["Conv", "Clip"]
    x = random.normal(size=(2, 3, 8, 8)).astype(np.float32)
    assert run(done.model, x)[0].min() == 0


def test_integer_operators_are_refused(save: Save, weight: np.ndarray) -> None:
    path = save(
        "(float[n,3,8,8] x) => (int32[n,6,6,6] y) "
        "{ q, s, z = DynamicQuantizeLinear (x)  y = ConvInteger (q, w, z) }",
        w=np.ones(W, np.uint8),
    )
    with pytest.raises(ModelError, match=r"integer already: ConvInteger \(1\), DynamicQuant"):
        adopt(path)


def test_a_scale_computed_at_run_time_is_refused(save: Save) -> None:
    path = save(
        "(float[n,3,8,8] x) => (float[n,3,8,8] y) { s = ReduceMax <keepdims=0> (x) "
        "q = QuantizeLinear (x, s)  y = DequantizeLinear (q, s) }"
    )
    with pytest.raises(ModelError, match="computed at run time"):
        adopt(path)


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        ("(float[n,16] x) => (float[n,16] y) { y = Relu (x) }", r"No input takes an image.*'x'"),
        ("(uint8[n,3,8,8] x) => (float[n,3,8,8] y) { y = Cast <to=1> (x) }", "No input takes"),
        (
            "(float[n,3,8,8] x, float[n,2] scale) => (float[n,3,8,8] y, float[n,2] z) "
            "{ y = Relu (x)  z = Relu (scale) }",
            r"more than one.*'scale'",
        ),
        ("(float[n,16,8,8] x) => (float[n,16,8,8] y) { y = Relu (x) }", "1 or 3 of them channels"),
    ],
)
def test_what_is_no_single_image_is_refused(save: Save, signature: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        adopt(save(signature))


def test_an_input_with_a_default_and_one_that_nothing_reads_do_not_count(
    save: Save, weight: np.ndarray
) -> None:
    path = save(
        "(float[n,3,8,8] x, float[6,3,3,3] w, float[2] unread) => (float[n,6,6,6] y) "
        "{ y = Conv (x, w) }",
        w=weight,
    )
    assert [v.name for v in adopt(path).model.graph.input] == ["images"]


def test_channels_are_told_by_the_first_convolution(save: Save) -> None:
    path = save(
        "(float[n,c,h,w] x) => (float[n,4,p,q] y) { y = Conv (x, k) }",
        k=np.ones((4, 1, 3, 3), np.float32),
    )
    assert image_input(path).channels == 1
    assert image_input(path).size is None


HEAD = (
    "(float[n,3,4,4] x) => (float[n,48] features, {kind} probabilities) "
    "{{ features = Flatten (x)  z = Gemm <transB=1> (features, w)  {end} }}"
)


@pytest.mark.parametrize(
    ("kind", "end"),
    [
        ("float[n,5]", "probabilities = Softmax (z)"),
        ("float[n,5,1,1]", "p = Softmax (z)  probabilities = Unsqueeze (p, axes)"),
    ],
)
def test_the_classifier_s_output_is_kept_as_logits(
    save: Save, random: Any, kind: str, end: str
) -> None:
    path = save(
        HEAD.format(kind=kind, end=end),
        w=random.normal(size=(5, 48)).astype(np.float32) / 8,
        axes=np.array([2, 3], np.int64),
    )
    done = adopt(path, classes=5)
    assert [v.name for v in done.model.graph.output] == ["logits"]
    assert shape_of(done.model.graph.output[0]) == ["batch", 5]
    assert any("'features'" in note for note in done.notes)
    x = random.normal(size=(2, 3, 4, 4)).astype(np.float32)
    logits = run(done.model, x)[0]
    probabilities = run(onnx.load(path), x)[1].reshape(2, 5)
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(
        shifted / shifted.sum(axis=1, keepdims=True), probabilities, atol=1e-5
    )
    assert any("Softmax" in note for note in done.notes)
    with pytest.raises(ModelError, match=r"data has 7 classes.*\(N, 48\)"):
        adopt(path, classes=7)


def test_operators_of_other_domains_stay(tmp_path: Path, weight: np.ndarray) -> None:
    """What they make is known to be float32, so that the Conv behind one can be quantized."""
    nodes = [
        helper.make_node("Gelu", ["x"], ["g"], domain="com.microsoft"),
        helper.make_node("Conv", ["g", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 6, 6, 6])],
        [numpy_helper.from_array(weight, "w")],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    path = tmp_path / "custom.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    done = adopt(path, opset=18)
    assert operators(done) == ["Gelu", "Conv"]
    assert "g" in {value.name for value in done.model.graph.value_info}
    nodes[0].domain = "com.example"
    opsets[1] = helper.make_opsetid("com.example", 1)
    graph.node[0].domain = "com.example"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    with pytest.raises(ModelError, match=r"ONNX Runtime cannot run it: .*com\.example"):
        adopt(path)


def test_local_functions_are_inlined(tmp_path: Path) -> None:
    text = """<ir_version: 9, opset_import: ["" : 18, "mine" : 1]>
    main (float[n,3,4,4] x) => (float[n,3,4,4] y) { y = mine.twice (x) }
    <domain: "mine", opset_import: ["" : 18]> twice (a) => (b) { b = Add (a, a) }"""
    path = tmp_path / "function.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    assert operators(adopt(path)) == ["Add"]


def test_nan_weights_are_refused(save: Save, weight: np.ndarray) -> None:
    broken = weight.copy()
    broken[0] = np.nan
    with pytest.raises(ModelError, match=r"foreign\.onnx: Output 'y' holds NaN"):
        adopt(save(PLAIN.format(n="n"), w=broken))
