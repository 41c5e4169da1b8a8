"""The recipe: every field that ``compress`` obeys, with its default and its bounds."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class InputSection(_Section):
    """The network's input, where it is not the data set's default.

    A field left out keeps the data set's value; see ``edgevision.preprocessing.Preprocessing``.
    """

    size: tuple[int, int] | None = None
    color: Literal["rgb", "gray"] | None = None
    resize: Literal["stretch", "crop", "letterbox"] | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic"] | None = None
    crop_fraction: float | None = Field(default=None, gt=0, le=1)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @field_validator("size", mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        return (value, value) if isinstance(value, int) else value


class QatSection(_Section):
    """Quantization-aware training.

    Attributes:
        when: ``when-needed``: where quantizing after training misses the accuracy budget.
        train: overrides fields of its training recipe (``default_qat_config``).
    """

    when: Literal["never", "when-needed", "always"] = "when-needed"
    train: dict[str, Any] = Field(default_factory=dict)


class QuantizeSection(_Section):
    """Quantization to INT8.

    Attributes:
        method: how the calibrator turns what it saw into ranges.
        images: size of the calibration set, drawn class-balanced from the training split.
        equalize: even out the ranges of channels first, without changing what the float network
            computes: ``layers`` between the weights of neighbours (cross-layer equalization),
            ``activations`` from activations into weights (SmoothQuant).
        bias_correction: add to each bias what quantization takes away on average: ``empirical``, as
            measured within the quantized network, or ``analytic``, from the weights alone.
        adaround: learn for each weight whether to round it up or down (AdaRound).
        weight_bits: below 8 too: weights then take the levels of so many bits, in INT8 storage.
        qat: quantization-aware training.
        regions: leave in float what INT8 makes slower, by times measured on the target, where this
            machine is one. What is chosen depends on those times.
    """

    method: str = "percentile"
    images: int = Field(default=512, ge=1, le=100_000)
    equalize: Literal["off", "layers", "activations"] = "off"
    bias_correction: Literal["off", "empirical", "analytic"] = "off"
    adaround: bool = False
    weight_bits: int = Field(default=8, ge=3, le=8)
    qat: QatSection = QatSection()
    regions: bool = True


class VerifySection(_Section):
    """What the result must prove.

    Attributes:
        max_accuracy_drop: percentage points that the task's metric may lose against FP32.
        speedup: how many times faster than FP32 it must be; None: faster at all.
        latency_ms: highest p50 of the device latency at batch 1, None for no bound.
        seconds: at most this long is measured, less when the interval is narrow before.
        threads: CPU threads of both sides, None for the backend's own choice.
    """

    max_accuracy_drop: float = Field(default=1.0, ge=0, le=100)
    speedup: float | None = Field(default=None, gt=0)
    latency_ms: float | None = Field(default=None, gt=0)
    seconds: float = Field(default=20.0, gt=0, le=3600)
    threads: int | None = Field(default=None, ge=1, le=1024)


class Recipe(_Section):
    """All of one compression.

    ``train`` overrides fields of the model's default training recipe (``TrainConfig``). ``prune``
    holds the fields of ``PruneConfig``, and in ``fine_tune`` those of the training after each step;
    None: no pruning.
    """

    model: str
    data: str
    target: str = "cpu"
    task: str = "classification"
    seed: int = Field(default=0, ge=0, lt=2**32)
    input: InputSection = InputSection()
    train: dict[str, Any] = Field(default_factory=dict)
    prune: dict[str, Any] | None = None
    quantize: QuantizeSection | None = QuantizeSection()
    verify: VerifySection = VerifySection()
    build: bool = True
