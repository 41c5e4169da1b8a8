"""Small frozen value types that every part shares. Imports the standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Precision(str, Enum):
    """Numeric precision of a layer or a whole network."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and dtype of a network input or output.

    ``shape`` holds an int per fixed axis and a name per dynamic one, e.g.
    ``("batch", 3, 32, 32)``; ``dtype`` is numpy's name, e.g. ``"float32"``.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"

    def accepts(self, shape: tuple[int, ...], dtype: str) -> bool:
        """Whether an array of ``shape`` and ``dtype`` fits: fixed axes equal, dynamic ones >= 1."""
        return (
            dtype == self.dtype
            and len(shape) == len(self.shape)
            and all(
                shape[axis] == want if isinstance(want, int) else shape[axis] >= 1
                for axis, want in enumerate(self.shape)
            )
        )


@dataclass(frozen=True)
class Availability:
    """Whether a backend or target can be used here; ``reason`` says why not, or what was found."""

    ok: bool
    reason: str


# Behind the name of a node: another one, which is part of its form on integers.
GATE = "::gate"


@dataclass(frozen=True)
class LayerInfo:
    """One layer of a built artifact as its backend reports it.

    ``precision`` is the one used, e.g. ``"int8"``; ``time_ms`` is None where it was not measured.
    ``nodes`` are the ONNX nodes that it computes or takes part in, as far as the backend tells.
    """

    name: str
    operator: str
    precision: str
    time_ms: float | None = None
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class DeviceInfo:
    """The machine that a figure was measured on."""

    name: str
    architecture: str
    system: str
    cores: int
    memory_mb: int
    cpu_features: tuple[str, ...] = ()
    gpu: str | None = None
    compute_capability: str | None = None

    @property
    def platform(self) -> str:
        """System and processor, e.g. "Linux aarch64"."""
        return f"{self.system.partition(' ')[0]} {self.architecture}"
