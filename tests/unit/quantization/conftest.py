from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

MakeModel = Callable[..., onnx.ModelProto]


@pytest.fixture
def make_model() -> MakeModel:
    """Build a model from ONNX text: ``(signature and body, **initializers)``."""

    def make(text: str, opset: int = 18, **arrays: np.ndarray) -> onnx.ModelProto:
        head = f'<ir_version: 8, opset_import: ["" : {opset}]>\n'
        model = onnx.parser.parse_model(head + "main " + text)
        for name, array in arrays.items():
            model.graph.initializer.append(numpy_helper.from_array(array, name))
        for number, node in enumerate(model.graph.node):
            node.name = f"{node.op_type}_{number}"
        onnx.checker.check_model(model, full_check=True)
        return model

    return make


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)
