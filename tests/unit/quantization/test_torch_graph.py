"""A float graph as a torch module computes what ONNX Runtime computes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from edgevision.errors import ModelError
from edgevision.export import export_onnx
from edgevision.quantization.torch_graph import TorchGraph
from edgevision.types import TensorSpec

MakeModel = Callable[..., onnx.ModelProto]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def network(name: str) -> torch.nn.Module:
    import timm

    options = {
        "vit_tiny_patch16_224": {"img_size": 32, "patch_size": 8, "depth": 2},
        "convnext_atto": {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)},
    }.get(name, {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return timm.create_model(name, num_classes=7, **options).eval()


@pytest.mark.parametrize(
    "name", ["resnet10t", "mobilenetv3_small_050", "vit_tiny_patch16_224", "convnext_atto"]
)
def test_families_as_on_onnx_runtime(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = network(name)
    path = tmp_path / "model.onnx"
    spec = TensorSpec("input", ("batch", 3, 32, 32))
    export_onnx(module, path, input_spec=spec, output_names=["logits"])
    images = torch.randn(3, 3, 32, 32)
    graph = TorchGraph(onnx.load(path))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    wanted = session.run(None, {"input": images.numpy()})[0]
    with torch.no_grad():
        got = graph(images).numpy()
    assert np.abs(got - wanted).max() <= 1e-4 * max(1, np.abs(wanted).max())
    trained = sum(p.numel() for p in graph.parameters())
    assert trained >= 0.95 * sum(p.numel() for p in module.parameters() if p.ndim > 1)
    graph(images).square().sum().backward()
    assert all(p.grad is not None for p in graph.parameters())


@pytest.fixture
def small(make_model: MakeModel, random: np.random.Generator) -> onnx.ModelProto:
    return make_model(
        "(float[n,2,4,4] x) => (float[n,3,4,4] y, float[n,3,1,1] z) "
        "{ a = Conv (x, w, b)  r = Relu (a)  y = Mul (r, two)  z = GlobalAveragePool (y) }",
        w=random.normal(size=(3, 2, 1, 1)).astype(np.float32),
        b=np.zeros(3, np.float32),
        two=np.float32(2),
    )


def test_inner_tensors_several_outputs_and_new_weights(small: onnx.ModelProto) -> None:
    graph = TorchGraph(small)
    images = torch.randn(2, 2, 4, 4)
    outputs = graph({"x": images})
    assert [tuple(o.shape) for o in outputs] == [(2, 3, 4, 4), (2, 3, 1, 1)]
    inner = graph(images, keep=["a", "x", "y"])
    assert list(inner) == ["a", "x", "y"]
    assert torch.equal(inner["a"].relu() * 2, outputs[0])
    assert list(graph.parameter_places) == ["w", "b"]
    with torch.no_grad():
        graph.parameter("b").add_(1)
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in graph.to_onnx().graph.initializer}
    assert weights["b"].tolist() == [1, 1, 1]
    assert onnx.numpy_helper.to_array(small.graph.initializer[1]).tolist() == [0, 0, 0]


def test_tensors_are_freed_after_their_last_reader(small: onnx.ModelProto) -> None:
    alive: list[set[str]] = []

    class Watched(TorchGraph):
        def forget(self, name: str, values: dict[str, torch.Tensor]) -> None:
            super().forget(name, values)
            alive.append(values.keys() - set(self.named_values()))

    Watched(small)(torch.randn(1, 2, 4, 4))
    assert alive[-1] == set()
    assert max(map(len, alive)) <= 2


def test_what_torch_cannot_do_is_named(make_model: MakeModel) -> None:
    model = make_model("(float[4] x) => (float[4] y) { y = Bernoulli (x) }")
    with pytest.raises(ModelError, match=r"'Bernoulli_0' \(Bernoulli\)"):
        TorchGraph(model)
    model = make_model("(float[4] x) => (float[4] y) { y = Abs (x) }")
    with pytest.raises(ModelError, match="no tensors"):
        TorchGraph(model)(torch.zeros(4), keep=["q"])
    with pytest.raises(ModelError, match="got no"):
        TorchGraph(model)({})
