"""Settings of a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from edgevision.data.augment import AugmentConfig
from edgevision.errors import RecipeError
from edgevision.models import FAMILIES


class TrainConfig(BaseModel):
    """How a network is trained. Frozen; unknown fields are refused.

    Attributes:
        epochs: passes over the training split.
        batch_size: images a step, over all processes together.
        optimizer: ``"sgd"`` (Nesterov), ``"adamw"``, or ``"muon"``: Muon on convolutions that have
            a normalization behind them (no bias), SGD on the rest.
        learning_rate: peak of SGD's or AdamW's rate.
        muon_learning_rate: peak of Muon's, the relative size of one step.
        momentum: of SGD and Muon.
        weight_decay: of weights with two or more dimensions under SGD and AdamW.
        schedule: ``"one-cycle"`` rises linearly over ``warmup`` and falls linearly to zero;
            ``"cosine"`` falls along a cosine; ``"constant"`` stays.
        warmup: share of all steps, 0 to 1.
        label_smoothing: share of the target spread over all classes.
        balance: against uneven classes, ``"weights"`` in the loss or ``"sampling"``.
        ema_decay: of the moving average of the weights a step; None for none. The average, where
            there is one, is the result; otherwise the last weights are. Never the best on the
            validation split.
        clip_norm: largest norm of all gradients together, None for no limit.
        freeze_epochs: first epochs in which only the head learns.
        weights: a safetensors file to start from; a head of another width is left out.
        distillation_weight: share of the teacher's term in the loss where there is a teacher.
        temperature: of the distillation.
        feature_weight: of the distance between what the heads of network and teacher read, added
            to the loss where there is a teacher and the two have the same shape.
        augment: what is done to training images.
        precision: ``"auto"`` is bf16 where the machine computes in it, else fp32; on CPUs also fp32
            for networks of grouped convolutions, which bf16 slows down there.
        seed: of shuffling, augmentation and dropout.
        evaluate_every: epochs between evaluations; the end is always evaluated, in FP32.
        save_every_seconds: longest time between two checkpoints.
        accelerator, devices, num_nodes, strategy: as Lightning Fabric has them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(20, ge=1, le=100_000)
    batch_size: int = Field(128, ge=1)
    optimizer: Literal["sgd", "adamw", "muon"] = "adamw"
    learning_rate: float = Field(1e-3, gt=0, le=100)
    muon_learning_rate: float = Field(0.08, gt=0, le=1)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(0.01, ge=0, le=10)
    schedule: Literal["one-cycle", "cosine", "constant"] = "one-cycle"
    warmup: float = Field(0.1, ge=0, le=1)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    balance: Literal["none", "weights", "sampling"] = "none"
    ema_decay: float | None = Field(None, gt=0, lt=1)
    clip_norm: float | None = Field(None, gt=0)
    freeze_epochs: int = Field(0, ge=0)
    weights: Path | None = None
    distillation_weight: float = Field(0.5, ge=0, le=1)
    temperature: float = Field(4.0, gt=0, le=100)
    feature_weight: float = Field(0.0, ge=0, le=100)
    augment: AugmentConfig = AugmentConfig(flip="random")
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    seed: int = Field(0, ge=0, le=2**32 - 1)
    evaluate_every: int = Field(1, ge=1)
    save_every_seconds: float = Field(120.0, ge=0)
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = Field(1, ge=1)
    num_nodes: int = Field(1, ge=1)
    strategy: Literal["auto", "ddp"] = "auto"

    @model_serializer(mode="wrap")
    def _used(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Without what is off: results that are stored by these values keep their names.
        values: dict[str, Any] = handler(self)
        if not self.feature_weight:
            values.pop("feature_weight", None)
        return values


def default_config(reference: str) -> TrainConfig:
    """The recipe that suits the model ``reference``: its family's, else one for any network."""
    if reference in FAMILIES:
        return TrainConfig.model_validate(dict(FAMILIES.get(reference).recipe))
    return TrainConfig(
        epochs=30,
        weight_decay=0.05,
        label_smoothing=0.1,
        clip_norm=1.0,
        augment=AugmentConfig(flip="random", shift=0.1),
    )


def override(config: TrainConfig, **fields: object) -> TrainConfig:
    """``config`` with those of ``fields`` that are not None, checked again.

    Raises:
        RecipeError: an unknown field or a value out of range.
    """
    changed = {name: value for name, value in fields.items() if value is not None}
    try:
        return TrainConfig.model_validate({**config.model_dump(), **changed})
    except ValueError as error:
        raise RecipeError(f"Training settings: {error}") from error
