"""Accuracy over a whole split, through the runtime that ships."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgevision.data.base import ImageDataset
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
