"""What a training run tells while it runs and when it is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        epoch, epochs: epochs finished, and all.
        step, steps: of the current epoch.
        loss: mean of the current epoch so far; NaN before its first look.
        metric: the task's figure at the last evaluation in percent, None before it.
        seconds_left: for the whole run.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    metric: float | None
    seconds_left: float


@dataclass(frozen=True)
class TrainResult:
    """What ``fit`` gives.

    Attributes:
        module: the trained network: the given one, in evaluation mode, on the CPU.
        metrics: figures over the whole validation split, in percent, computed in FP32.
        history: by epoch: ``epoch``, ``loss``, ``seconds``, and the figures where evaluated.
        seconds: wall time of training, over all interruptions.
        precision: ``"fp32"`` or ``"bf16"``.
        main_process: False in the helper processes of a distributed run, which write nothing.
    """

    module: nn.Module
    metrics: dict[str, float]
    history: list[dict[str, float]]
    seconds: float
    precision: str
    main_process: bool = True


def as_phase(tell: Callable[[str, int, int, str], None], phase: str) -> Callable[[Progress], None]:
    """A training run as one phase of a longer job: all steps, the epoch, loss and accuracy."""

    def told(at: Progress) -> None:
        total = at.epochs * at.steps
        done = min(at.epoch * at.steps + at.step, total)
        metric = "" if at.metric is None else f", accuracy {at.metric:.2f} %"
        epoch = min(at.epoch + 1, at.epochs)
        tell(phase, done, total, f"epoch {epoch}/{at.epochs}, loss {at.loss:.3f}{metric}")

    return told
