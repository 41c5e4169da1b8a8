"""ONNX's own backend tests, run through the torch functions."""

from __future__ import annotations

import importlib
import pkgutil
import re
import warnings
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from edgevision.errors import ModelError
from edgevision.quantization.torch_ops import OPERATORS, Node

NODE_CASES = "onnx.backend.test.case.node"
# What is refused on purpose: the case's name → why, as the message says it.
REFUSED = {
    r"resize_.*antialias": "antialias",
    r"resize_.*(not_larger|not_smaller)": "keep_aspect_ratio_policy",
    r"resize_tf_crop_and_resize": "tf_crop_and_resize",
    r"maxpool_with_argmax": "indices are asked for",
    r"(training_)?dropout_.*(mask|training)|training_dropout": "(mask|training mode)",
    r"batchnorm_.*training_mode": "training mode",
    r"reduce_m(ax|in)_empty_set": "size 0",
}
DTYPES = {"bool", "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8"}


@cache
def cases(operator: str) -> list[Any]:
    """Single-node cases of ``operator`` whose tensors torch can hold and compute with."""
    package = importlib.import_module(NODE_CASES)
    for module in pkgutil.iter_modules(package.__path__):
        if module.name.replace("_", "").removesuffix("op") == operator.lower():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                importlib.import_module(f"{NODE_CASES}.{module.name}")
    return [
        case
        for case in package._NodeTestCases
        if [node.op_type for node in case.model.graph.node] == [operator]
        and case.model.graph.node[0].domain in ("", "ai.onnx")
        and all(dtype_of(value) in DTYPES for side in case.data_sets[0] for value in side)
    ]


def dtype_of(value: Any) -> str:
    if isinstance(value, onnx.TensorProto):
        return onnx.helper.tensor_dtype_to_np_dtype(value.data_type).name
    return str(getattr(value, "dtype", "no array"))


def as_tensor(array: Any) -> torch.Tensor:
    return torch.from_numpy(as_array(array))


def as_array(value: Any) -> Any:
    stored = isinstance(value, onnx.TensorProto)
    return np.array(onnx.numpy_helper.to_array(value) if stored else value)


def run(case: Any) -> list[Any]:
    node, opset = case.model.graph.node[0], case.model.opset_import[0].version
    given = iter(case.data_sets[0][0])
    inputs = [as_tensor(next(given)) if name else None for name in node.input]
    out = OPERATORS[node.op_type](Node.of(node, opset), inputs)
    return [value.numpy() for value in (out if isinstance(out, tuple) else (out,))]


@pytest.mark.parametrize("operator", sorted(OPERATORS))
def test_backend_cases(operator: str) -> None:
    """Each operator gives what ONNX says, or refuses by name."""
    ran = 0
    for case in cases(operator):
        name = case.name.removeprefix("test_")
        node = case.model.graph.node[0]
        wrong = next((why for key, why in REFUSED.items() if re.match(key, name)), None)
        if wrong is not None:
            with pytest.raises(ModelError, match=wrong) as caught:
                run(case)
            assert node.op_type in caught.value.message
            continue
        got = run(case)
        wanted = case.data_sets[0][1]
        assert len(got) == len(wanted), name
        for have, want in zip(got, wanted, strict=True):
            want = as_array(want)
            assert have.dtype == want.dtype, name
            assert have.shape == want.shape, name
            np.testing.assert_allclose(have, want, case.rtol, case.atol, err_msg=name)
        ran += 1
    assert ran, f"onnx has no case for {operator}"


def test_refusal_names_node_and_operator() -> None:
    node = onnx.helper.make_node("MaxPool", ["x"], ["y", "i"], "pool_7", kernel_shape=[2])
    with pytest.raises(ModelError, match=r"'pool_7' \(MaxPool\).*indices"):
        OPERATORS["MaxPool"](Node.of(node, 18), [torch.zeros(1, 1, 4)])


def test_type_that_torch_lacks_is_refused() -> None:
    node = onnx.helper.make_node("Cast", ["x"], ["y"], "cast_1", to=onnx.TensorProto.UINT4)
    with pytest.raises(
        ModelError, match=r"'cast_1' \(Cast\).*does not compute with the element type uint4"
    ):
        OPERATORS["Cast"](Node.of(node, 21), [torch.zeros(2)])
