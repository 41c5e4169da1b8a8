from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgevision.tasks.base import Outputs, Prediction
from edgevision.tasks.classification import Accuracy, Classification


@dataclass(frozen=True)
class Opinion(Prediction):
    words: str

    def __str__(self) -> str:
        return self.words

    def to_dict(self) -> dict[str, Any]:
        return {"words": self.words}


class Hits(Accuracy):
    def compute(self) -> dict[str, float]:
        return {"hits": super().compute()["top1"]}


class ToyTask(Classification):
    """Another name, another metric, another prediction; nothing outside may ask for "top1"."""

    name = "toy"
    metric_name = "hits"

    def metric(self, num_classes: int) -> Hits:
        return Hits(num_classes)

    def decode(self, outputs: Outputs, labels: Sequence[str]) -> list[Prediction]:
        best = [int(row.argmax()) for row in outputs["logits"]]
        return [Opinion(f"it might be {labels[index]}") for index in best]
