"""The task seam: everything that depends on what the network is for.

Nothing outside ``edgevision.tasks`` asks which task it is. A task module imports without torch;
``loss`` and its kin import it when called, ``metric``, ``decode`` and ``draw`` are numpy and
Pillow, because they run on the device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch
    from PIL import Image

Outputs = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class LossOptions:
    """What the recipe says about the loss.

    Attributes:
        label_smoothing: share of the target spread over all classes, in [0, 1).
        class_weights: one weight a class, mean 1, or None for even classes.
    """

    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Prediction:
    """Base of what a task decodes from the outputs for one image; each task has its subclass."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        raise TypeError(f"{type(self).__name__} must say how it becomes JSON")

    def __str__(self) -> str:
        """The prediction in a few words, for a line of a table."""
        raise TypeError(f"{type(self).__name__} must say how it is told")


class Metric(ABC):
    """Accumulates a task's figures over a data set, in numpy."""

    @abstractmethod
    def update(self, outputs: Outputs, targets: Sequence[Any]) -> None:
        """Add a batch: ``outputs`` name → (N, …) array, ``targets`` N of the data set's targets."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """Figures so far by name, in percent; holds the task's ``metric_name``."""

    def per_class(self) -> list[float | None]:
        """The main figure by class in percent, None where a class had no image."""
        return []


class Task(ABC):
    """One kind of vision problem."""

    name: ClassVar[str]
    metric_name: ClassVar[str]  # key of the figure that the accuracy budget speaks of, in percent
    output_names: ClassVar[tuple[str, ...]]  # in the order in which the network returns them

    @abstractmethod
    def check_target(self, target: Any, num_classes: int) -> str | None:
        """Why ``target`` cannot be used with a head of ``num_classes``, or None when it can."""

    @abstractmethod
    def classes_of(self, target: Any) -> tuple[int, ...]:
        """The classes present in one target: for histograms, balancing and class weights."""

    @abstractmethod
    def collate(self, targets: Sequence[Any]) -> torch.Tensor:
        """Targets of one batch as the tensor that ``loss`` takes."""

    @abstractmethod
    def loss(
        self, outputs: torch.Tensor, targets: torch.Tensor, options: LossOptions
    ) -> torch.Tensor:
        """Scalar training loss. ``targets`` come from ``collate`` or from mixup (soft labels)."""

    @abstractmethod
    def distillation_loss(
        self, student: torch.Tensor, teacher: torch.Tensor, temperature: float
    ) -> torch.Tensor:
        """Scalar distance of the student's outputs from the teacher's."""

    @abstractmethod
    def head_layers(self, module: torch.nn.Module, num_classes: int) -> list[torch.nn.Module]:
        """Layers whose output width is fixed by the task: pruning leaves them."""

    @abstractmethod
    def metric(self, num_classes: int) -> Metric:
        """A fresh accumulator."""

    @abstractmethod
    def decode(self, outputs: Outputs, labels: Sequence[str]) -> list[Prediction]:
        """Outputs of N images to N predictions."""

    @abstractmethod
    def draw(self, image: npt.NDArray[np.uint8], prediction: Prediction) -> Image.Image:
        """The (H, W, 3) uint8 RGB image with the prediction drawn on or beside it."""
