"""Image classification: one of several classes an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgevision.errors import ModelError
from edgevision.tasks.base import LossOptions, Metric, Outputs, Prediction, Task

if TYPE_CHECKING:
    import torch
    from PIL import Image

_TOP = 5


@dataclass(frozen=True)
class ClassPrediction(Prediction):
    """The most probable class of one image.

    Attributes:
        label, index: its name and number.
        score: softmax probability, 0 to 1.
        top: up to five ``(label, score)``, best first.
    """

    label: str
    index: int
    score: float
    top: tuple[tuple[str, float], ...]

    def __str__(self) -> str:
        return f"{self.label}  {self.score:.1%}"

    def to_dict(self) -> dict[str, Any]:
        return {
            "label": self.label,
            "index": self.index,
            "score": self.score,
            "top": [{"label": label, "score": score} for label, score in self.top],
        }


class Accuracy(Metric):
    """Top-1, and top-5 where there are at least six classes, in percent."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self._right = np.zeros(num_classes, np.int64)
        self._seen = np.zeros(num_classes, np.int64)
        self._right5 = 0

    def update(self, outputs: Outputs, targets: Sequence[Any]) -> None:
        scores = _scores(outputs, self.num_classes)
        wanted = np.asarray(targets, np.int64)
        if len(wanted) != len(scores):
            raise ValueError(f"{len(scores)} outputs but {len(wanted)} targets")
        hits = scores.argmax(axis=1) == wanted
        np.add.at(self._seen, wanted, 1)
        np.add.at(self._right, wanted[hits], 1)
        if self.num_classes > _TOP:
            # Rank of the wanted class: how many score higher, ties broken by the lower number.
            own = scores[np.arange(len(wanted)), wanted][:, None]
            before = np.arange(self.num_classes) < wanted[:, None]
            rank = ((scores > own) | ((scores == own) & before)).sum(axis=1)
            self._right5 += int((rank < _TOP).sum())

    def compute(self) -> dict[str, float]:
        total = int(self._seen.sum())
        if not total:
            raise ValueError("no image was counted")
        figures = {"top1": 100.0 * int(self._right.sum()) / total}
        if self.num_classes > _TOP:
            figures["top5"] = 100.0 * self._right5 / total
        return figures

    def per_class(self) -> list[float | None]:
        return [
            100.0 * int(right) / int(seen) if seen else None
            for right, seen in zip(self._right, self._seen, strict=True)
        ]


class Classification(Task):
    """Targets are class numbers (int); the network gives (N, num_classes) logits."""

    name: ClassVar[str] = "classification"
    metric_name: ClassVar[str] = "top1"
    output_names: ClassVar[tuple[str, ...]] = ("logits",)

    def check_target(self, target: Any, num_classes: int) -> str | None:
        if isinstance(target, bool) or not isinstance(target, int | np.integer):
            return f"a class number is wanted, got {type(target).__name__} {target!r}"
        if not 0 <= target < num_classes:
            return f"class {int(target)} is outside the head's 0 to {num_classes - 1}"
        return None

    def classes_of(self, target: Any) -> tuple[int, ...]:
        return (int(target),)

    def collate(self, targets: Sequence[Any]) -> torch.Tensor:
        import torch

        return torch.as_tensor(np.asarray(targets, np.int64))

    def loss(
        self, outputs: torch.Tensor, targets: torch.Tensor, options: LossOptions
    ) -> torch.Tensor:
        import torch
        from torch.nn import functional

        weights = None
        if options.class_weights is not None:
            weights = torch.tensor(options.class_weights, device=outputs.device)
        return functional.cross_entropy(
            outputs.float(), targets, weight=weights, label_smoothing=options.label_smoothing
        )

    def distillation_loss(
        self, student: torch.Tensor, teacher: torch.Tensor, temperature: float
    ) -> torch.Tensor:
        """KL divergence at ``temperature``, times its square (Hinton et al., 2015)."""
        from torch.nn import functional

        return (
            functional.kl_div(
                functional.log_softmax(student.float() / temperature, dim=1),
                functional.log_softmax(teacher.float() / temperature, dim=1),
                reduction="batchmean",
                log_target=True,
            )
            * temperature**2
        )

    def head_layers(self, module: torch.nn.Module, num_classes: int) -> list[torch.nn.Module]:
        """The last linear or convolution layer as wide as there are classes.

        Raises:
            ModelError: the network has none.
        """
        from torch import nn

        width = {nn.Linear: "out_features", nn.Conv2d: "out_channels"}
        found = [
            layer
            for layer in module.modules()
            for kind, attribute in width.items()
            if isinstance(layer, kind) and getattr(layer, attribute) == num_classes
        ]
        if not found:
            raise ModelError(
                f"No linear or convolution layer of the network has {num_classes} outputs, "
                "as many as there are classes: its head cannot be found."
            )
        return found[-1:]

    def metric(self, num_classes: int) -> Accuracy:
        return Accuracy(num_classes)

    def decode(self, outputs: Outputs, labels: Sequence[str]) -> list[Prediction]:
        scores = _softmax(_scores(outputs, len(labels)))
        order = np.argsort(-scores, axis=1, kind="stable")[:, : min(_TOP, len(labels))]
        return [
            ClassPrediction(
                label=labels[best[0]],
                index=int(best[0]),
                score=float(row[best[0]]),
                top=tuple((labels[i], float(row[i])) for i in best),
            )
            for row, best in zip(scores, order, strict=True)
        ]

    def draw(self, image: npt.NDArray[np.uint8], prediction: Prediction) -> Image.Image:
        from PIL import Image, ImageDraw, ImageFont

        if not isinstance(prediction, ClassPrediction):
            raise TypeError(f"ClassPrediction wanted, got {type(prediction).__name__}")
        picture = Image.fromarray(np.ascontiguousarray(image))
        least = 224
        if min(picture.size) < least:  # text on a 32-pixel image cannot be read
            factor = -(-least // min(picture.size))
            size = (picture.width * factor, picture.height * factor)
            picture = picture.resize(size, Image.Resampling.NEAREST)
        font = ImageFont.load_default(size=max(14, picture.height // 16))
        text = str(prediction)
        left, top, _, bottom = font.getbbox(text)
        pad = max(4, picture.height // 64)
        high = int(bottom - top) + 2 * pad
        canvas = Image.new("RGB", (picture.width, picture.height + high), (20, 20, 20))
        canvas.paste(picture, (0, 0))
        ImageDraw.Draw(canvas).text(
            (pad - left, picture.height + pad - top), text, fill=(255, 255, 255), font=font
        )
        return canvas


def _scores(outputs: Mapping[str, npt.NDArray[Any]], num_classes: int) -> npt.NDArray[np.float64]:
    (name,) = Classification.output_names
    logits = outputs[name] if name in outputs else next(iter(outputs.values()))
    if logits.ndim != 2 or logits.shape[1] != num_classes:
        raise ModelError(
            f"The network's output must be (N, {num_classes}) for {num_classes} classes, "
            f"got {tuple(logits.shape)}."
        )
    scores = np.asarray(logits, np.float64)
    if not np.isfinite(scores).all():
        raise ModelError("The network's output holds NaN or infinite values.")
    return scores


def _softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: npt.NDArray[np.float64] = shifted / shifted.sum(axis=1, keepdims=True)
    return result
