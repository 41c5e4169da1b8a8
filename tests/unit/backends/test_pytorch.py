from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgevision.backends import get_backend
from edgevision.backends.base import Artifact
from edgevision.backends.pytorch import TorchRunner
from edgevision.errors import InputError, ModelError, UsageError
from edgevision.models.checkpoint import load_checkpoint
from edgevision.types import TensorSpec
from tests.conformance.graphs import images
from tests.conformance.test_backends import checkpoint

BACKEND = get_backend("pytorch")
SPEC = TensorSpec("images", ("batch", 3, 16, 16))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("checkpoint"))


def test_it_gives_what_the_module_gives(weights: Path) -> None:
    module, _ = load_checkpoint(weights.parent)
    with torch.inference_mode():
        expected = module(torch.from_numpy(images(3))).numpy()
    with BACKEND.open(Artifact("pytorch", weights)) as runner:
        found = runner.infer({"images": images(3)})
    assert list(found) == ["logits"]
    np.testing.assert_allclose(found["logits"], expected, rtol=1e-4, atol=1e-5)


def test_the_report_lists_the_layers_in_the_order_they_run(weights: Path) -> None:
    layers = BACKEND.layer_report(Artifact("pytorch", weights))
    assert [layer.operator for layer in layers][:4] == [
        "Conv2d",
        "BatchNorm2d",
        "ReLU",
        "MaxPool2d",
    ]
    assert layers[-1].operator == "Linear"
    assert {layer.precision for layer in layers} == {"fp32"}


def test_an_onnx_file_is_no_checkpoint(tmp_path: Path) -> None:
    source = tmp_path / "net.onnx"
    source.write_bytes(b"x")
    with pytest.raises(UsageError, match=r"model\.safetensors"):
        BACKEND.build(source, tmp_path / "model.safetensors")


def test_a_pickle_under_the_right_name_is_refused(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "model.json").write_bytes((weights.parent / "model.json").read_bytes())
    torch.save({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError):
        BACKEND.open(Artifact("pytorch", tmp_path / "model.safetensors"))


def test_threads_are_put_back(weights: Path) -> None:
    before = torch.get_num_threads()
    with BACKEND.open(Artifact("pytorch", weights), threads=1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_a_first_layer_in_place_leaves_the_input_alone() -> None:
    module = torch.nn.Sequential(torch.nn.ReLU(inplace=True), torch.nn.Flatten())
    batch = images(2)
    before = batch.copy()
    with TorchRunner(module, SPEC, ("flat",)) as runner:
        runner.infer({"images": batch})
    np.testing.assert_array_equal(batch, before)


def test_a_module_with_other_outputs_than_named_is_refused() -> None:
    with pytest.raises(InputError, match=r"\['a', 'b'\], given: 1"):
        TorchRunner(torch.nn.Flatten(), SPEC, ("a", "b"))
