"""Distillation of features: what a network's head reads, compared with the teacher's."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgevision.tasks.base import Task

log = logging.getLogger(__name__)


class FeatureDistillation:
    """Mean squared distance between the inputs of the student's and the teacher's heads.

    As the hints of "FitNets" (Romero et al., ICLR 2015), at the last features and without a layer
    between: it applies where both heads read equally many features, and is 0 where pruning has
    narrowed the student's.

    Args:
        student, teacher: networks for the same task with ``num_classes``.
    """

    def __init__(
        self, student: nn.Module, teacher: nn.Module, task: Task, num_classes: int
    ) -> None:
        self._seen: dict[str, list[Tensor]] = {"student": [], "teacher": []}
        self._told = False
        self._handles = [
            layer.register_forward_pre_hook(self._keep(who))
            for who, module in (("student", student), ("teacher", teacher))
            for layer in task.head_layers(module, num_classes)
        ]

    def _keep(self, who: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self._seen[who].append(inputs[0])

        return hook

    def loss(self) -> Tensor | float:
        """Scalar float32 of the forward passes since the last call, differentiable."""
        student, teacher = self._seen["student"], self._seen["teacher"]
        self._seen = {"student": [], "teacher": []}
        if [t.shape for t in student] != [t.shape for t in teacher]:
            if not self._told:
                log.warning("The head reads other features than the teacher's: not distilled.")
            self._told = True
            return 0.0
        parts = [
            functional.mse_loss(own.float(), wanted.detach().float())
            for own, wanted in zip(student, teacher, strict=True)
        ]
        return torch.stack(parts).mean() if parts else 0.0

    def remove(self) -> None:
        """Take the hooks off both networks."""
        for handle in self._handles:
            handle.remove()
