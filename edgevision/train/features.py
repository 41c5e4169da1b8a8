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
        # Of each head layer the last input: evaluation runs the student in between.
        self._student: dict[int, Tensor] = {}
        self._teacher: dict[int, Tensor] = {}
        self._told = False
        self._handles = [
            layer.register_forward_pre_hook(_keep(seen, number))
            for seen, module in ((self._student, student), (self._teacher, teacher))
            for number, layer in enumerate(task.head_layers(module, num_classes))
        ]

    def loss(self) -> Tensor | float:
        """Scalar float32 of the last forward pass of both, differentiable."""
        pairs = [(own, self._teacher[number]) for number, own in sorted(self._student.items())]
        if any(own.shape != wanted.shape for own, wanted in pairs):
            if not self._told:
                log.warning("The head reads other features than the teacher's: not distilled.")
            self._told = True
            return 0.0
        parts = [functional.mse_loss(own.float(), wanted.float()) for own, wanted in pairs]
        return torch.stack(parts).mean()

    def remove(self) -> None:
        """Take the hooks off both networks."""
        for handle in self._handles:
            handle.remove()


def _keep(seen: dict[int, Tensor], number: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[number] = inputs[0]

    return hook
