"""Accuracy of a torch network over a whole split."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgevision.data.base import ImageDataset
from edgevision.data.loader import BatchLoader
from edgevision.errors import ModelError
from edgevision.preprocessing import Preprocessing
from edgevision.tasks.base import Task


def evaluate(
    module: nn.Module,
    dataset: ImageDataset,
    preprocessing: Preprocessing,
    task: Task,
    *,
    batch_size: int = 256,
    autocast: AbstractContextManager[object] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """The task's figures in percent, over every image once, without test-time augmentation.

    Args:
        module: on any device; its mode is restored.
        autocast: context for a lower precision; None computes in the weights' own.
        progress: called with images done and images in all.

    Raises:
        ModelError: the outputs do not fit the task or are not finite.
    """
    loader = BatchLoader(dataset, preprocessing, task, batch_size)
    metric = task.metric(len(dataset.labels))
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    training = module.training
    module.eval()
    done = 0
    try:
        with torch.inference_mode(), autocast or nullcontext():
            for images, _ in loader:
                targets = [dataset.target(done + k) for k in range(len(images))]
                metric.update(named_outputs(module(images.to(device)), task), targets)
                done += len(images)
                if progress is not None:
                    progress(done, len(dataset))
    finally:
        module.train(training)
    return metric.compute()


def named_outputs(outputs: object, task: Task) -> dict[str, npt.NDArray[np.float32]]:
    """A network's tensor, or tuple of tensors, as numpy by the task's output names."""
    values = outputs if isinstance(outputs, tuple | list) else (outputs,)
    tensors = [value for value in values if isinstance(value, Tensor)]
    if len(tensors) != len(task.output_names) or len(values) != len(tensors):
        raise ModelError(
            f"The network must return {len(task.output_names)} tensor(s) "
            f"({', '.join(task.output_names)}), got {type(outputs).__name__} of {len(values)}."
        )
    return {
        name: tensor.detach().float().cpu().numpy()
        for name, tensor in zip(task.output_names, tensors, strict=True)
    }
