"""What a quantization scheme says: numbers, placement and lint of one kind of target, as data."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ActivationFormat(_Frozen):
    """How activations are stored: always one scale for the whole tensor."""

    dtype: Literal["int8", "uint8"]
    symmetric: bool

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest integer in use."""
        info = np.iinfo(self.dtype)
        return (-int(info.max) if self.symmetric else int(info.min), int(info.max))


class WeightFormat(_Frozen):
    """How weights are stored: int8, symmetric, ``bits`` of them in use."""

    per_channel: bool
    bits: int = Field(default=8, ge=2, le=8)

    @property
    def limit(self) -> int:
        """Largest integer in use; the smallest is its negative."""
        return int(2 ** (self.bits - 1) - 1)


class Scheme(_Frozen):
    """One way to write Q/DQ, right for one kind of target.

    Attributes:
        name: of the YAML file.
        summary: which targets it is for.
        activation, weight: number formats.
        bias: ``int32`` gets a DequantizeLinear of its own, ``float`` stays as it is.
        remainder: float type of what is not quantized; ``float16`` is for ``half.to_half``.
        fused_activations: operators that the target computes inside the layer before them; Q/DQ
            goes behind them.
        quantized_outputs: operators whose output must be quantized for the target to run them on
            integers.
        quantized_between: operators whose output is quantized where it leads to a layer with
            weights and every reader has a rule.
        shared_scale: operators whose inputs and outputs all take one scale.
        integer_forms: operators that ``integer_forms.write_out`` writes out.
        rules: placement rule of each operator; an operator without one stays in float.
        float_reasons: why some operators have no rule, for the report.
        lint: names of the lint rules that its graphs must pass.
    """

    name: str
    summary: str
    activation: ActivationFormat
    weight: WeightFormat
    bias: Literal["int32", "float"]
    remainder: Literal["float16", "float32"] = "float32"
    fused_activations: tuple[str, ...]
    quantized_outputs: tuple[str, ...]
    quantized_between: tuple[str, ...] = ()
    shared_scale: tuple[str, ...]
    integer_forms: tuple[str, ...] = ()
    rules: dict[str, str]
    float_reasons: dict[str, str] = Field(default_factory=dict)
    lint: tuple[str, ...]
