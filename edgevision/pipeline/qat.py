"""Quantization-aware training: fine-tune a float graph with a scheme's fake quantization in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from edgevision.data.base import DataSplits
from edgevision.errors import ModelError, UsageError
from edgevision.export.graph import Graph
from edgevision.export.loading import load_onnx, save_onnx
from edgevision.files import sha256_file
from edgevision.preprocessing import Preprocessing
from edgevision.quantization.placement import NOTHING
from edgevision.quantization.quantized_torch import QuantizedTorchGraph
from edgevision.quantization.schemes import Scheme
from edgevision.quantization.table import CalibrationTable
from edgevision.quantization.torch_graph import float_graph_of
from edgevision.tasks.base import Task
from edgevision.train import Progress, TrainConfig, fit

MODEL_FILE = "model.qat.fp32.onnx"
TABLE_FILE = "calibration.qat.json"
_STEP_RATE = 10.0


@dataclass(frozen=True)
class QatResult:
    """What was learned and where it lies.

    Attributes:
        onnx_path: the float graph with the new weights.
        table_path: the calibration table for it: ranges and weight scales.
        metrics: figures of the fake-quantized network over the validation split, in percent.
        history: by epoch, as ``TrainResult`` has it.
        seconds: wall time of training, over all interruptions.
    """

    onnx_path: Path
    table_path: Path
    metrics: dict[str, float]
    history: list[dict[str, float]]
    seconds: float


def default_qat_config(base: TrainConfig | None = None) -> TrainConfig:
    """Few epochs at a low rate, mostly after the float network; ``base`` gives the augmentation.

    Always in FP32: a fake-quantized value rounded to bf16 would be on no integer's place.
    """
    fields = {
        "epochs": 3,
        "batch_size": 64,
        "optimizer": "adamw",
        "learning_rate": 1e-4,
        "weight_decay": 0.0,
        "schedule": "cosine",
        "warmup": 0.05,
        "clip_norm": 1.0,
        "distillation_weight": 0.8,
        "precision": "fp32",
    }
    if base is not None:
        # A float network drawn to mixed images teaches them as well as others.
        fields["augment"] = base.augment.model_dump()
    return TrainConfig.model_validate(fields)


def quantization_aware_training(
    onnx_path: Path,
    table: CalibrationTable,
    scheme: Scheme,
    data: DataSplits,
    preprocessing: Preprocessing,
    task: Task,
    *,
    folder: Path,
    config: TrainConfig | None = None,
    keep_float: Mapping[str, str] = NOTHING,
    distill: bool = True,
    progress: Callable[[Progress], None] | None = None,
) -> QatResult:
    """Learn weights, biases and step sizes of a graph that will be emitted under ``scheme``.

    BatchNorm is folded already in the exported graph. Emit the result with ``keep_float`` as it
    is here.

    Args:
        onnx_path: float graph with one input of dynamic batch.
        table: of that graph; gives the initial step sizes.
        scheme: of the target, perhaps with fewer bits (``with_weight_bits``).
        folder: for the result and the run's state; an interrupted run is carried on from there,
            and on one device gives the same result bit for bit.
        config: None for ``default_qat_config()``.
        keep_float: nodes that stay in float, as for ``emit``.
        distill: learn from the float graph's outputs too, by ``config.distillation_weight``.
        progress: called after every look at the loss.

    Raises:
        UsageError: settings that do not fit: precision other than FP32, Muon, a frozen body,
            weights to start from, or ``folder`` holds another run.
        ModelError: the table is of another graph, the batch is fixed, an operator that there is
            no torch function for, or the training diverges.
    """
    config = config or default_qat_config()
    _check(config)
    model = load_onnx(onnx_path)
    if sha256_file(onnx_path) != table.onnx_sha256:
        raise ModelError(
            f"The calibration table was made for another model than {onnx_path}.",
            hint="Calibrate again after every change of the float model.",
        )
    _check_batch(model, onnx_path)
    student = QuantizedTorchGraph(model, table, scheme, keep_float, step_rate=_STEP_RATE)
    result = fit(
        student,
        data,
        preprocessing,
        task,
        config,
        folder=folder,
        teacher=float_graph_of(model) if distill else None,
        progress=progress,
    )
    paths = folder / MODEL_FILE, folder / TABLE_FILE
    if result.main_process:
        learned, ranges = student.learned()
        save_onnx(learned, paths[0])
        ranges.save(paths[1])
    return QatResult(*paths, result.metrics, result.history, result.seconds)


def _check(config: TrainConfig) -> None:
    wrong = {
        "precision": config.precision != "fp32",
        "optimizer": config.optimizer == "muon",
        "freeze_epochs": config.freeze_epochs > 0,
        "weights": config.weights is not None,
    }
    bad = [f"{name}={getattr(config, name)}" for name, is_wrong in wrong.items() if is_wrong]
    if bad:
        raise UsageError(
            f"Quantization-aware training cannot use {', '.join(bad)}.",
            hint="It wants precision fp32 and sgd or adamw, and starts from the float graph as "
            "a whole.",
        )


def _check_batch(model: onnx.ModelProto, path: Path) -> None:
    graph = Graph(model)
    if len(graph.inputs) != 1:
        raise ModelError(f"{path}: training wants one input, it has {graph.inputs}.")
    value = next(v for v in model.graph.input if v.name == graph.inputs[0])
    dims = value.type.tensor_type.shape.dim
    if dims and dims[0].HasField("dim_value"):
        raise ModelError(
            f"{path}: training wants a dynamic batch, the input's is {dims[0].dim_value}.",
            hint="Export it with a dynamic batch.",
        )
