"""Four-bit weights lose a trained network its accuracy; learning gets it back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from edgevision.data import DataSplits, load_data
from edgevision.data.arrays import ArrayDataset
from edgevision.errors import ModelError, UsageError
from edgevision.export import export_onnx, save_onnx
from edgevision.export.loading import load_onnx
from edgevision.pipeline.qat import default_qat_config, quantization_aware_training
from edgevision.quantization import CalibrationTable, calibrate, emit, get_scheme
from edgevision.quantization.adaround import AdaRoundConfig, adaround, mse_scales
from edgevision.quantization.quantized_torch import QuantizedTorchGraph, with_weight_bits
from edgevision.tasks import get_task
from edgevision.train import TrainConfig, fit
from edgevision.types import TensorSpec

TASK = get_task("classification")
SCHEME = with_weight_bits(get_scheme("x86-vnni"), 3)
CONFIG = default_qat_config().model_copy(
    update={"epochs": 4, "batch_size": 50, "learning_rate": 2e-3, "save_every_seconds": 0.0}
)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.second = nn.Conv2d(8, 8, 1)
        self.third = nn.Conv2d(8, 16, 3, stride=2)
        self.head = nn.Linear(16, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        values = self.norm(self.first(images)).relu()
        values = (values + self.second(self.depthwise(values).relu())).relu()
        logits: torch.Tensor = self.head(self.third(values).relu().mean((2, 3)))
        return logits


@dataclass
class Trained:
    """A small trained network, its float graph, its table and images to judge it by."""

    path: Path
    table: CalibrationTable
    data: DataSplits
    calibration: np.ndarray
    images: np.ndarray
    labels: np.ndarray

    def accuracy(self, path: Path) -> float:
        return float((logits(path, self.images).argmax(1) == self.labels).mean() * 100)


def logits(path: Path, images: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": images})[0]


def part(dataset: Any, count: int) -> ArrayDataset:
    assert isinstance(dataset, ArrayDataset)
    chosen = [
        index
        for label in range(5)
        for index in (dataset.targets == label).nonzero()[0][:count].tolist()
    ]
    return ArrayDataset(
        dataset.name, dataset.images[chosen], dataset.targets[chosen], dataset.labels[:5]
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("trained")
    splits = load_data("fashion-mnist-mini")
    data = DataSplits(
        "clothes", part(splits.train, 100), part(splits.validation, 60), splits.preprocessing
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Net()
    fields = {"epochs": 12, "batch_size": 50, "learning_rate": 0.02, "precision": "fp32"}
    fit(module, data, data.preprocessing, TASK, TrainConfig.model_validate(fields), folder=folder)
    path = folder / "model.fp32.onnx"
    spec = TensorSpec("input", ("batch", 1, 28, 28))
    export_onnx(module, path, input_spec=spec, output_names=["logits"])

    def tensor(dataset: ArrayDataset) -> np.ndarray:
        prepared = [dataset.image(i) for i in range(len(dataset))]
        return np.concatenate([data.preprocessing(image) for image in prepared])

    calibration = tensor(part(splits.train, 20))
    images = tensor(data.validation)
    labels = np.array([data.validation.target(i) for i in range(len(images))])
    return Trained(
        path, calibrate(path, [calibration], threads=1), data, calibration, images, labels
    )


def ptq_accuracy(trained: Trained, folder: Path) -> float:
    """With scales by the largest weight, rounded to the nearest."""
    graph = QuantizedTorchGraph(load_onnx(trained.path), trained.table, SCHEME)
    return written_accuracy(trained, *graph.learned(), folder / "ptq.onnx")


def written_accuracy(
    trained: Trained, model: onnx.ModelProto, table: CalibrationTable, path: Path
) -> float:
    save_onnx(model, path)
    emit(path, table, "x86-vnni", path.with_suffix(".int8.onnx"))
    return trained.accuracy(path.with_suffix(".int8.onnx"))


def test_adaround_recovers_accuracy(trained: Trained, tmp_path: Path) -> None:
    before = trained.accuracy(trained.path)
    nearest = ptq_accuracy(trained, tmp_path)
    seen: list[tuple[int, int]] = []
    model, table = adaround(
        load_onnx(trained.path),
        trained.table,
        SCHEME,
        [trained.calibration],
        config=AdaRoundConfig(iterations=200, learning_rate=2e-2),
        progress=lambda done, layers: seen.append((done, layers)),
    )
    learned = written_accuracy(trained, model, table, tmp_path / "rounded.onnx")
    print(f"float {before:.1f}, nearest {nearest:.1f}, AdaRound {learned:.1f}")  # noqa: T201
    assert nearest < before - 5
    assert learned > nearest + (before - nearest) / 2
    assert seen == [(number, 5) for number in range(1, 6)]
    assert table.tensors.keys() == trained.table.tensors.keys()
    integers = [
        onnx.numpy_helper.to_array(t)
        for t in onnx.load(tmp_path / "rounded.int8.onnx").graph.initializer
    ]
    used = np.unique(np.concatenate([w.ravel() for w in integers if w.dtype == np.int8 and w.ndim]))
    assert set(used.tolist()) <= set(range(-3, 4))


def test_scales_of_least_squared_error(trained: Trained) -> None:
    model = load_onnx(trained.path)
    scales = mse_scales(model, SCHEME)
    for proto in model.graph.initializer:
        if proto.name not in scales:
            continue
        weight = onnx.numpy_helper.to_array(proto).reshape(len(scales[proto.name]), -1)

        def error(scale: np.ndarray, weight: np.ndarray = weight) -> np.ndarray:
            integers = np.clip(np.rint(weight / scale[:, None]), -3, 3)
            return np.square(weight - integers * scale[:, None]).sum(1)

        largest = np.abs(weight).max(1) / 3
        assert (error(scales[proto.name]) <= error(largest) * (1 + 1e-5)).all()
    assert len(scales) == 5


def test_training_recovers_accuracy_and_what_is_emitted_is_what_learned(
    trained: Trained, tmp_path: Path
) -> None:
    before = trained.accuracy(trained.path)
    nearest = ptq_accuracy(trained, tmp_path)
    result = train(trained, tmp_path / "run")
    table = CalibrationTable.load(result.table_path)
    emit(result.onnx_path, table, "x86-vnni", tmp_path / "qat.onnx")
    learned = trained.accuracy(tmp_path / "qat.onnx")
    print(f"float {before:.1f}, nearest {nearest:.1f}, QAT {learned:.1f}")  # noqa: T201
    assert learned > nearest + (before - nearest) * 0.7
    # The module's own figure is that of the graph on ONNX Runtime.
    assert abs(result.metrics[TASK.metric_name] - learned) < 0.7
    # Built again from what was written, the module gives the runtime's answers.
    graph = QuantizedTorchGraph(load_onnx(result.onnx_path), table, SCHEME).eval()
    with torch.no_grad():
        ours = graph(torch.from_numpy(trained.images)).numpy()
    theirs = logits(tmp_path / "qat.onnx", trained.images)
    assert (ours.argmax(1) == theirs.argmax(1)).mean() >= 0.995
    # Run again, nothing is trained anew and the files are the same.
    again = train(trained, tmp_path / "run")
    assert again.history == result.history
    assert again.onnx_path.read_bytes() == result.onnx_path.read_bytes()


def test_interrupted_training_is_carried_on(trained: Trained, tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    def killed(at: Any) -> None:
        if (at.epoch, at.step) == (1, 10):
            raise KilledError

    short = CONFIG.model_copy(update={"epochs": 2})
    whole = train(trained, tmp_path / "whole", config=short)
    with pytest.raises(KilledError):
        train(trained, tmp_path / "killed", config=short, progress=killed)
    resumed = train(trained, tmp_path / "killed", config=short)
    assert resumed.onnx_path.read_bytes() == whole.onnx_path.read_bytes()
    assert resumed.table_path.read_bytes() == whole.table_path.read_bytes()


def test_unfit_settings_are_refused(trained: Trained, tmp_path: Path) -> None:
    for field, value in (("precision", "bf16"), ("optimizer", "muon"), ("freeze_epochs", 1)):
        config = CONFIG.model_copy(update={field: value})
        with pytest.raises(UsageError, match=f"{field}={value}"):
            train(trained, tmp_path, config=config)
    other = load_onnx(trained.path)
    other.graph.name = "other"
    save_onnx(other, tmp_path / "other.onnx")
    with pytest.raises(ModelError, match="another model"):
        train(trained, tmp_path, path=tmp_path / "other.onnx")


def train(trained: Trained, folder: Path, **changes: Any) -> Any:
    return quantization_aware_training(
        changes.pop("path", trained.path),
        trained.table,
        SCHEME,
        trained.data,
        trained.data.preprocessing,
        TASK,
        folder=folder,
        **{"config": CONFIG, **changes},
    )
