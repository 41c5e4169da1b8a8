from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgevision.errors import ModelError, UsageError
from edgevision.export import check_against_torch, export_onnx
from edgevision.types import TensorSpec

SPEC = TensorSpec("image", ("batch", 3, 8, 8))


class Small(nn.Module):
    """Convolution, batch norm, residual and head: what the passes have to do with."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 1)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 5)
        nn.init.uniform_(self.norm.running_mean, -1, 1)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu(x + self.second(x))
        return self.head(self.drop(x.mean((2, 3))))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "small.onnx"
    return path, export_onnx(Small(), path, input_spec=SPEC, output_names=["logits"])


@pytest.fixture
def images():
    return np.random.default_rng(0).normal(size=(5, 3, 8, 8)).astype(np.float32)


def test_exports_what_later_stages_expect(exported):
    path, result = exported
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == [
        *("Conv", "Relu", "Conv", "Add", "Relu", "GlobalAveragePool", "Flatten", "Gemm")
    ]
    assert result.opset == model.opset_import[0].version == 18
    assert [str(spec) for spec in result.output_specs] == ["logits: float32[batch, 5]"]
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == ["batch", 3, 8, 8]


def test_agrees_with_torch_for_one_and_for_many(exported, images):
    check = check_against_torch(exported[0], Small(), images)
    assert check.images == 5
    assert check.max_rel < 1e-6


def test_same_module_gives_same_bytes_in_any_mode_layout_and_process(exported, tmp_path):
    _, result = exported
    other = Small().to(memory_format=torch.channels_last).train()
    again = export_onnx(other, tmp_path / "b.onnx", input_spec=SPEC, output_names=["logits"])
    assert again.sha256 == result.sha256
    assert other.training
    assert other.norm.training

    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_to_onnx import SPEC, Small, export_onnx; from pathlib import Path\n"
        "module = Small(); export_onnx(module, Path('a.onnx'), input_spec=SPEC, "
        "output_names=['x']); print('quiet')\n"
        "print(export_onnx(module, Path('a.onnx'), input_spec=SPEC, "
        "output_names=['logits']).sha256)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    assert done.stdout.split() == ["quiet", result.sha256]
    assert done.stderr == ""


def test_nothing_of_this_machine_stays_in_the_file(exported):
    data = exported[0].read_bytes()
    for trace in (b".py", str(Path.cwd()).encode(), b"stack_trace", b"torch.onnx"):
        assert trace not in data


def test_exporting_changes_nothing_in_the_module(tmp_path):
    module = Small()
    before = copy.deepcopy(module.state_dict())
    export_onnx(module, tmp_path / "a.onnx", input_spec=SPEC, output_names=["logits"])
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_older_opset_and_fixed_batch(tmp_path, images):
    spec = TensorSpec("image", (1, 3, 8, 8))
    path = tmp_path / "a.onnx"
    result = export_onnx(Small(), path, input_spec=spec, output_names=["logits"], opset=17)
    assert onnx.load(path).opset_import[0].version == result.opset == 17
    assert check_against_torch(path, Small(), images).max_rel < 1e-6


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if bool(x.sum() > 0) else -x


def test_model_that_cannot_be_traced_says_so(tmp_path):
    with pytest.raises(ModelError, match="cannot be exported"):
        export_onnx(Branching(), tmp_path / "a.onnx", input_spec=SPEC, output_names=["y"])
    assert not list(tmp_path.iterdir())


def test_nan_weights_are_refused(tmp_path):
    module = Small()
    with torch.no_grad():
        module.second.weight[0, 0] = torch.nan
    with pytest.raises(ModelError, match=r"second\.weight"):
        export_onnx(module, tmp_path / "a.onnx", input_spec=SPEC, output_names=["logits"])


def test_arguments_are_checked(tmp_path):
    with pytest.raises(UsageError, match="opset"):
        export_onnx(Small(), tmp_path / "a", input_spec=SPEC, output_names=["y"], opset=9)
    with pytest.raises(ModelError, match="1 outputs"):
        export_onnx(Small(), tmp_path / "a", input_spec=SPEC, output_names=["y", "z"])


def test_another_network_is_told_apart(exported, images):
    module = Small()
    with torch.no_grad():
        module.second.weight.mul_(1.01)
    with pytest.raises(ModelError, match="differ"):
        check_against_torch(exported[0], module, images)


def test_nan_outputs_are_found(exported, images):
    images[2, 0, 0, 0] = np.nan
    with pytest.raises(ModelError, match="NaN"):
        check_against_torch(exported[0], Small(), images)


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (3, 8, 8)])
def test_images_are_checked(exported, shape):
    with pytest.raises(UsageError, match="float32"):
        check_against_torch(exported[0], Small(), np.zeros(shape, np.float32))
