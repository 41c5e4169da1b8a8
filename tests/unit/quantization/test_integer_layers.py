"""Layers of integers in torch give, without gradients, the very integers of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from edgevision.export import save_onnx
from edgevision.quantization import calibrate, emit, get_scheme
from edgevision.quantization.quantized_torch import QuantizedTorchGraph

Case = tuple[QuantizedTorchGraph, np.ndarray, np.ndarray]

# The pool reads what the layer before it was rounded to, so the output is on that grid.
GRAPH = (
    "(float[n,48,10,10] x) => (float[n,64,8,8] y) "
    "{ a = Conv <pads=[1,1,1,1]> (x, w, b)  r = Relu (a)"
    "  c = Conv <pads=[1,1,1,1]> (r, v, d)  k = Clip (c, zero, six)"
    "  e = Conv <pads=[1,1,1,1]> (k, v, d)  y = MaxPool <kernel_shape=[3,3]> (e) }"
)


@pytest.fixture
def case(make_model: Callable[..., onnx.ModelProto], tmp_path: Path) -> Case:
    """The module, images, and what ONNX Runtime gives for them."""
    random = np.random.default_rng(3)

    def some(*shape: int) -> np.ndarray:
        return (random.normal(size=shape) * 0.1).astype(np.float32)

    model = make_model(
        GRAPH,
        w=some(64, 48, 3, 3),
        v=some(64, 64, 3, 3),
        b=some(64),
        d=some(64) * 3,
        zero=np.float32(0),
        six=np.float32(6),
    )
    path, images = tmp_path / "float.onnx", random.normal(size=(64, 48, 10, 10)).astype(np.float32)
    save_onnx(model, path)
    table = calibrate(path, [images], method="minmax", threads=1)
    emit(path, table, "x86-vnni", tmp_path / "int8.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "int8.onnx")
    graph = QuantizedTorchGraph(onnx.load(path), table, get_scheme("x86-vnni")).eval()
    return graph, images, session.run(None, {"x": images})[0]


def flipped(graph: QuantizedTorchGraph, images: np.ndarray, there: np.ndarray) -> int:
    """How many values are on another step."""
    here = graph(torch.from_numpy(images)).detach().numpy()
    return int((np.abs(here - there) > 1e-4).sum())


def test_not_one_value_falls_on_another_step(case: Case) -> None:
    graph, images, there = case
    assert len(graph.integer_layers) == 3
    with torch.no_grad():
        assert flipped(graph, images, there) == 0


def test_summed_in_floats_some_do(case: Case) -> None:
    """With gradients; else the test above would hold of anything."""
    graph, images, there = case
    assert 0 < flipped(graph, images, there) < 0.01 * there.size
