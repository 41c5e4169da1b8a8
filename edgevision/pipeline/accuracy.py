"""Accuracy over a whole split, through the runtime that ships."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from edgevision.data.base import ImageDataset
    from edgevision.pipeline.job import Job
    from edgevision.runtime import Model

BATCH = 64


@dataclass(frozen=True)
class Accuracy:
    """Figures in percent by name, and the main one by class (None: no image of that class)."""

    figures: dict[str, float]
    per_class: list[float | None]
    images: int


def measure_accuracy(
    model: Model,
    data: ImageDataset,
    progress: Callable[[int, int], None] | None = None,
) -> Accuracy:
    """Run every image of ``data`` through ``model``: its preprocessing, its artifact.

    Raises:
        DataError: an image cannot be read, or a target lies beyond the head; names it.
    """
    metric = model.task.metric(len(model.labels))
    for start in range(0, len(data), BATCH):
        indices = range(start, min(start + BATCH, len(data)))
        outputs = model.infer_images([data.image(i) for i in indices])
        metric.update(outputs, [data.target(i) for i in indices])
        if progress is not None:
            progress(indices.stop, len(data))
    return Accuracy(metric.compute(), metric.per_class(), len(data))


def evaluate_onnx(
    job: Job, path: Path, phase: str, *, backend: str = "onnxruntime"
) -> dict[str, float]:
    """The task's figures of an ONNX file over the validation split.

    For choosing between graphs on the way; the verdict is measured through the runtime.

    Args:
        phase: what the progress bar says.
        backend: that runs the file.

    Raises:
        DataError: an image cannot be read.
    """
    from edgevision.backends import get_backend
    from edgevision.backends.base import Artifact

    data, batch = job.data.validation, job.fixed_batch or BATCH
    metric = job.task.metric(len(job.data.labels))
    with get_backend(backend).open(Artifact(backend, path)) as runner:
        name = runner.input_specs[0].name
        for start in range(0, len(data), batch):
            indices = range(start, min(start + batch, len(data)))
            pixels = np.stack([job.preprocessing.geometry(data.image(i)) for i in indices])
            outputs = runner.infer({name: job.preprocessing.normalize(pixels)})
            metric.update(outputs, [data.target(i) for i in indices])
            job.progress(phase, indices.stop, len(data), "")
    return metric.compute()
