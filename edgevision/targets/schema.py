"""What a target file holds, and the target that comes out of it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from edgevision.types import Precision

_STRICT = ConfigDict(extra="forbid", frozen=True)
# Where an engine for the target can be built: on the machine that runs it ("here": any machine is
# its own target), on any machine, or on the named device alone.
Builds = Literal["here", "anywhere", "on-device"]


class JetPack(BaseModel):
    """One JetPack release: what it brings to a Jetson."""

    model_config = _STRICT

    version: str
    l4t: tuple[str, ...] = Field(min_length=1)  # releases, see devices.jetson.jetpack_table
    cuda: str
    tensorrt: str
    python: str
    opset: int = Field(ge=9)


class SchemeChoice(BaseModel):
    """A quantization scheme and the CPU features of which one is enough for it."""

    model_config = _STRICT

    name: str
    any_feature: tuple[str, ...] = Field(min_length=1)


class Peak(BaseModel):
    """Published peak of one module, for estimates where it is not at hand."""

    model_config = _STRICT

    macs_per_second: dict[str, float] = Field(
        min_length=1,
        description="multiplications with addition, dense, by precision: int8, fp16, fp32",
    )
    bytes_per_second: float = Field(gt=0, description="of the memory")
    source: str = Field(description="where the figures were read, and of which module")


class TargetFacts(BaseModel):
    """What the file and the loaded target share."""

    model_config = _STRICT

    title: str = Field(description="one line for people")
    backend: str = Field(description="name in the backend registry")
    builds: Builds
    device_model: str | None = Field(
        None, description="words in the device's name, see devices.jetson"
    )
    opset: int = Field(ge=9, le=25, description="ONNX opset to export with")
    round_to: int = Field(ge=1, le=64, description="channel multiple for pruning")
    compute_capabilities: tuple[str, ...] = Field(
        (), description='SM names such as "86"; empty: the GPU of this machine, or none'
    )
    memory_mb: int | None = Field(None, ge=1, description="memory that the engine may count on")
    dla_cores: int = Field(0, ge=0)
    float_precision: Precision = Field(
        Precision.FP32,
        description="wanted for what is not INT8: a builder flag on TensorRT 8, the graph's own "
        "types later",
    )
    float_ops: tuple[str, ...] = Field((), description="operators that stay in floating point")
    peak: Peak | None = Field(None, description="for estimates; None: not known")


class TargetFile(TargetFacts):
    """A YAML file of ``targets/data/`` or of the user's own."""

    scheme: str | tuple[SchemeChoice, ...]
    jetpacks: tuple[str, ...] = ()
    default_jetpack: str | None = None

    @model_validator(mode="after")
    def _jetpack_is_listed(self) -> TargetFile:
        if bool(self.jetpacks) != (self.default_jetpack is not None):
            raise ValueError("give jetpacks and default_jetpack together")
        if self.default_jetpack is not None and self.default_jetpack not in self.jetpacks:
            raise ValueError(f"default_jetpack {self.default_jetpack} is not one of the jetpacks")
        return self


class Target(TargetFacts):
    """A device to compress for, ready to use: every choice is made.

    Attributes:
        scheme: quantization scheme, None where the model has to stay in float.
        scheme_reason: why that scheme, or why none.
        jetpacks: the choices, oldest first; empty on anything but a Jetson.
        jetpack: the one chosen; its ``opset`` is already in ``opset``.
    """

    name: str
    scheme: str | None
    scheme_reason: str
    jetpacks: tuple[JetPack, ...] = ()
    jetpack: JetPack | None = None

    def is_of(self, machine: str) -> bool:
        """Whether a machine of that name is of ``device_model``; any is where there is none."""
        wanted = set((self.device_model or "").lower().split())
        return wanted <= set(machine.lower().split())

    @property
    def reference(self) -> str:
        """The name with the JetPack, e.g. ``jetson-orin-nano@6.2``."""
        return f"{self.name}@{self.jetpack.version}" if self.jetpack else self.name
