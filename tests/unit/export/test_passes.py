from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from edgevision.errors import ModelError
from edgevision.export.graph import Graph
from edgevision.export.passes import PASSES, run_passes
from edgevision.export.passes.constants import constants_to_initializers
from edgevision.export.passes.fold_batchnorm import fold_batchnorm
from edgevision.export.passes.global_pool import reduce_to_pool
from edgevision.export.passes.identity import drop_identities
from edgevision.export.passes.lower_opset import lower_opset
from edgevision.export.passes.relu_before_pool import relu_before_pool
from edgevision.export.passes.strip_metadata import strip_metadata
from edgevision.export.passes.unused import drop_unused


def run(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: x})


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def norm(random: np.random.Generator, channels: int, positive: bool = False) -> dict[str, object]:
    gamma = random.normal(size=channels)
    return {
        "gamma": (np.abs(gamma) + 0.1 if positive else gamma).astype(np.float32),
        "beta": random.normal(size=channels).astype(np.float32),
        "mean": random.normal(size=channels).astype(np.float32),
        "var": random.uniform(0.2, 3, size=channels).astype(np.float32),
    }


FOLDED = {
    "conv": ("Conv <group=2> (x, w)", (6, 2, 3, 3), "float[n,6,6,6]"),
    "conv with bias": ("Conv (x, w, b)", (6, 4, 3, 3), "float[n,6,6,6]"),
    "transposed": ("ConvTranspose (x, w, b)", (4, 6, 3, 3), "float[n,6,10,10]"),
    "transposed in groups": ("ConvTranspose <group=2> (x, w)", (4, 3, 3, 3), "float[n,6,10,10]"),
}


@pytest.mark.parametrize("name", FOLDED)
def test_batchnorm_folds_into_convolutions(make_model, random, name):
    layer, shape, out = FOLDED[name]
    arrays = {"w": random.normal(size=shape).astype(np.float32), **norm(random, 6)}
    if "b)" in layer:
        arrays["b"] = random.normal(size=6).astype(np.float32)
    model = make_model(
        f"(float[n,4,8,8] x) => ({out} y) "
        f"{{ c = {layer}  y = BatchNormalization <epsilon=0.01> (c, gamma, beta, mean, var) }}",
        **arrays,
    )
    x = random.normal(size=(2, 4, 8, 8)).astype(np.float32)
    before = run(model, x)
    assert fold_batchnorm(model) == 1
    assert len(model.graph.node) == 1
    np.testing.assert_allclose(run(model, x)[0], before[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        ("Gemm (x, w, b)", (5, 6)),
        ("Gemm <transB=1, beta=0.5, alpha=2.0> (x, w, b)", (6, 5)),
        ("Gemm <transB=1> (x, w)", (6, 5)),
    ],
)
def test_batchnorm_folds_into_gemm(make_model, random, layer, shape):
    arrays = {"w": random.normal(size=shape).astype(np.float32), **norm(random, 6)}
    if "b)" in layer:
        arrays["b"] = random.normal(size=6).astype(np.float32)
    model = make_model(
        f"(float[n,5] x) => (float[n,6] y) "
        f"{{ c = {layer}  y = BatchNormalization (c, gamma, beta, mean, var) }}",
        **arrays,
    )
    x = random.normal(size=(3, 5)).astype(np.float32)
    before = run(model, x)
    assert fold_batchnorm(model) == 1
    assert operators(model) == ["Gemm"]
    np.testing.assert_allclose(run(model, x)[0], before[0], rtol=1e-4, atol=1e-5)


POOLED = (
    "(float[n,3,8,8] x) => (float[n,4,3,3] y) "
    "{ c = Conv (x, w)  p = MaxPool <kernel_shape=[2,2], strides=[2,2]> (c)"
    "  y = BatchNormalization (p, gamma, beta, mean, var) }"
)


def test_batchnorm_folds_through_max_pooling_only_with_positive_scales(make_model, random):
    w = random.normal(size=(4, 3, 3, 3)).astype(np.float32)
    x = random.normal(size=(2, 3, 8, 8)).astype(np.float32)
    rising = make_model(POOLED, w=w, **norm(random, 4, positive=True))
    before = run(rising, x)
    assert fold_batchnorm(rising) == 1
    np.testing.assert_allclose(run(rising, x)[0], before[0], rtol=1e-4, atol=1e-5)

    numbers = norm(random, 4, positive=True)
    numbers["gamma"][1] *= -1
    assert fold_batchnorm(make_model(POOLED, w=w, **numbers)) == 0


def test_batchnorm_stays_where_folding_would_change_something_else(make_model, random):
    w = random.normal(size=(4, 3, 3, 3)).astype(np.float32)
    read_twice = make_model(
        "(float[n,3,8,8] x) => (float[n,4,6,6] y, float[n,4,6,6] c) "
        "{ c = Conv (x, w)  y = BatchNormalization (c, gamma, beta, mean, var) }",
        w=w,
        **norm(random, 4),
    )
    assert fold_batchnorm(read_twice) == 0

    shared = make_model(
        "(float[n,4,8,8] x) => (float[n,4,8,8] y, float[n,4,8,8] z) "
        "{ c = Conv (x, w)  y = BatchNormalization (c, gamma, beta, mean, var)  z = Conv (y, w) }",
        w=random.normal(size=(4, 4, 1, 1)).astype(np.float32),
        **norm(random, 4),
    )
    x = random.normal(size=(2, 4, 8, 8)).astype(np.float32)
    before = run(shared, x)
    assert fold_batchnorm(shared) == 1
    for have, want in zip(run(shared, x), before, strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-5)


def test_constants_become_initializers(make_model, random):
    model = make_model(
        "(float[n,3] x) => (float[n,3] y, float z) "
        "{ k = Constant <value = float[3] {1, 2, 3}> ()  s = Constant <value_float = 2.5> ()"
        "  t = Mul (x, k)  y = Mul (t, s)  z = Constant <value = float {4}> () }"
    )
    x = random.normal(size=(2, 3)).astype(np.float32)
    before = run(model, x)
    assert constants_to_initializers(model) == 2
    assert operators(model) == ["Mul", "Mul", "Constant"]  # a graph output needs a node
    for have, want in zip(run(model, x), before, strict=True):
        np.testing.assert_array_equal(have, want)


def test_identities_go_and_interface_names_stay(make_model, random):
    model = make_model(
        "(float[n,3] x) => (float[n,3] y, float[n,3] z) "
        "{ a = Identity (x)  b = Relu (a)  c = Dropout (b)  y = Identity (c)  z = Identity (x) }"
    )
    x = random.normal(size=(2, 3)).astype(np.float32)
    before = run(model, x)
    assert drop_identities(model) == 3
    assert operators(model) == ["Relu", "Identity"]
    assert [value.name for value in model.graph.output] == ["y", "z"]
    for have, want in zip(run(model, x), before, strict=True):
        np.testing.assert_array_equal(have, want)


def test_dropout_that_drops_stays(make_model):
    model = make_model(
        "(float[n,3] x) => (float[n,3] y) { d = Dropout (x, r, t)  y = Relu (d) }",
        r=np.array(0.5, np.float32),
        t=np.array(True),
    )
    assert drop_identities(model) == 0


def test_every_relu_moves_in_front_of_its_pooling(make_model, random):
    model = make_model(
        "(float[n,3,12,12] x) => (float[n,4,1,1] y) "
        "{ a = Conv (x, v)  b = MaxPool <kernel_shape=[2,2], strides=[2,2]> (a)  c = Relu (b)"
        "  d = Conv (c, w)  e = MaxPool <kernel_shape=[3,3], strides=[3,3]> (d)  y = Relu (e) }",
        v=random.normal(size=(4, 3, 3, 3)).astype(np.float32),
        w=random.normal(size=(4, 4, 3, 3)).astype(np.float32),
    )
    x = random.normal(size=(2, 3, 12, 12)).astype(np.float32)
    before = run(model, x)
    assert relu_before_pool(model) == 2
    assert operators(model) == ["Conv", "Relu", "MaxPool", "Conv", "Relu", "MaxPool"]
    np.testing.assert_array_equal(run(model, x)[0], before[0])


@pytest.mark.parametrize("keeps", [1, 0])
@pytest.mark.parametrize(
    ("reduction", "pooling"), [("ReduceMean", "GlobalAveragePool"), ("ReduceMax", "MaxPool")]
)
def test_reductions_over_the_image_become_pooling(make_model, random, reduction, pooling, keeps):
    shape = "n,3,1,1" if keeps else "n,3"
    model = make_model(
        f"(float[n,3,5,7] x) => (float[{shape}] y) "
        f"{{ y = {reduction} <keepdims={keeps}> (x, axes) }}",
        axes=np.array([-1, -2]),
    )
    x = random.normal(size=(2, 3, 5, 7)).astype(np.float32)
    before = run(model, x)
    assert reduce_to_pool(model) == 1
    drop_unused(model)
    assert operators(model) == ([pooling] if keeps else [pooling, "Flatten"])
    np.testing.assert_allclose(run(model, x)[0], before[0], rtol=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        "(float[n,3,5,7] x) => (float[n,3,5] y) { y = ReduceMean <keepdims=0> (x, last) }",
        "(float[n,5,7] x) => (float[n,1,1] y) { y = ReduceMean (x, axes) }",
        "(float[n,3,h,7] x) => (float[n,3,1,1] y) { y = ReduceMax (x, axes) }",
    ],
)
def test_other_reductions_stay(make_model, text):
    model = make_model(text, axes=np.array([-1, -2]), last=np.array([3]))
    assert reduce_to_pool(model) == 0


def test_unused_parts_and_metadata_go(make_model, random):
    model = make_model(
        "(float[n,3] x) => (float[n,3] y) { y = Relu (x)  dead = Mul (y, k) }",
        k=np.ones(3, np.float32),
    )
    model.doc_string = "made in /home/somebody"
    model.graph.node[0].doc_string = "File /home/somebody/net.py"
    entry = model.graph.node[0].metadata_props.add()
    entry.key, entry.value = "stack_trace", "/home/somebody/net.py"
    drop_unused(model)
    strip_metadata(model)
    assert operators(model) == ["Relu"]
    assert not model.graph.initializer
    assert b"/home/somebody" not in model.SerializeToString()


def test_tensors_that_subgraphs_read_are_kept(make_model):
    model = make_model(
        "(float[n,3] x, bool c) => (float[n,3] y) "
        "{ k = Identity (x)  y = If (c) <"
        "then_branch = t () => (float[n,3] p) { p = Relu (k) },"
        "else_branch = e () => (float[n,3] q) { q = Neg (k) }> }"
    )
    assert Graph(model).captured == {"k"}
    run_passes(model)
    onnx.checker.check_model(model, full_check=True)
    assert operators(model) == ["Identity", "If"]


def test_lower_opset_changes_the_number_where_nothing_else_changed(make_model):
    model = make_model("(float[n,3] x) => (float[n,3] y) { y = Relu (x) }", opset=20)
    lowered = lower_opset(model, 17)
    assert (lowered.opset_import[0].version, lowered.ir_version) == (17, 8)
    onnx.checker.check_model(lowered, full_check=True)


def test_lower_opset_names_what_stands_in_the_way(make_model):
    model = make_model("(float[n,3] x) => (float[n,3] y) { y = Gelu (x) }", opset=20)
    with pytest.raises(ModelError, match="Gelu"):
        lower_opset(model, 17)


def test_passes_find_nothing_the_second_time(make_model, random):
    model = make_model(
        POOLED,
        w=random.normal(size=(4, 3, 3, 3)).astype(np.float32),
        **norm(random, 4, positive=True),
    )
    run_passes(model)
    assert set(run_passes(model).values()) == {0}
    assert len(PASSES) == len({each.__name__ for each in PASSES})
