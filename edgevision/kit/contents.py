"""What a kit and its result are made of: the names of their files and the form of ``kit.json``."""

from __future__ import annotations

import json
import re
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgevision.errors import InputError
from edgevision.targets import Target
from edgevision.types import Precision

SCHEMA_VERSION: Final = 1
KIT = "kit.json"
SUMS = "SHA256SUMS"
OPTIONS = "options.txt"
SCRIPT = "build.sh"
README = "README.txt"
GRAPH, HALF_GRAPH = "model.onnx", "model.fp16.onnx"
# Of a result.
RESULT = "result"
FACTS = "facts.txt"
ENGINE = "model.engine"
TIMING_CACHE = "timing.cache"
LAYERS = "layers.json"
TIMES = "times.json"
BUILD_LOG = "build.log"
BUILD_ARGS = "build.args"
NVPMODEL, PACKAGES = "nvpmodel.txt", "packages.txt"
DEVICE = "device"  # files of /proc, /sys, /etc and /var, in folders of the same names

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_+.-]{0,99}")
_STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class KitFile(BaseModel):
    """A file of the kit."""

    model_config = _STRICT

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class KitSource(BaseModel):
    """The graph that the kit was made of; ``bundle`` is the sha256 of the bundle's manifest."""

    model_config = _STRICT

    path: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bundle: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")


class Graphs(BaseModel):
    """The graph for a TensorRT that takes types from it, and for one that takes flags.

    ``typed`` is None where only the latter was thought of: float16 for TensorRT 8.
    """

    model_config = _STRICT

    typed: str | None
    flagged: str


class Sizes(BaseModel):
    """Batch sizes, or with ``shapes`` all axes, of an optimization profile."""

    model_config = _STRICT

    min: int | tuple[int, ...]
    opt: int | tuple[int, ...]
    max: int | tuple[int, ...]


class Asked(BaseModel):
    """What the engine is asked for, as ``asked_facts`` has it; only what was set is told."""

    model_config = _STRICT

    batch: Sizes
    workspace_mb: int | None
    shapes: dict[str, Sizes] = {}
    builder_level: int | None = None
    dla_core: int | None = None
    version_compatible: bool = False
    hardware_compatibility: str | None = None


class KitOptions(BaseModel):
    """Options for trtexec.

    Attributes:
        build: of every build.
        flagged: beside them where the types are not in the graph.
        measure: of the measurement.
    """

    model_config = _STRICT

    build: tuple[str, ...]
    flagged: tuple[str, ...]
    measure: tuple[str, ...]


class Kit(BaseModel):
    """``kit.json``.

    Attributes:
        edgevision: version that wrote it.
        target: all of it, so that a result is read without the target's file.
        float_precision: wanted of what is not INT8.
        source: what the kit was made of.
        graphs: names in ``files``.
        asked: what the engine is asked for.
        trtexec: the same for trtexec.
        warm_up_ms, seconds: of the measurement.
        files: of the kit beside ``kit.json`` and ``SHA256SUMS``.
    """

    model_config = _STRICT

    schema_version: Literal[1]
    edgevision: str
    target: Target
    float_precision: Precision
    source: KitSource
    graphs: Graphs
    asked: Asked
    trtexec: KitOptions
    warm_up_ms: int = Field(ge=0, le=600_000)
    seconds: int = Field(ge=1, le=3600)
    files: dict[str, KitFile]


def parse_kit(data: bytes) -> Kit:
    """Read ``kit.json`` strictly.

    Raises:
        InputError: no JSON object, or a field that is unknown, missing or out of range.
    """
    values = parse_json(data, KIT)
    if not isinstance(values, dict):
        raise InputError(f"{KIT} must hold a JSON object, got {type(values).__name__}.")
    version = values.get("schema_version")
    if version != SCHEMA_VERSION:
        raise InputError(
            f"The kit has schema version {str(version)[:40]}, this EdgeVision reads "
            f"{SCHEMA_VERSION}.",
            hint="Upgrade edgevision, or make the kit again with this version.",
        )
    try:
        return Kit.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(f"{KIT}: {place[:200]}: {first['msg'][:300]}.") from error


def parse_json(data: bytes, name: str) -> Any:
    """The JSON value in ``data``.

    Raises:
        InputError: it is none.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"'{name}' is no valid JSON: {str(error)[:200]}") from error


def is_plain(path: str) -> bool:
    """Whether ``path`` stays inside its folder and means the same on every system."""
    parts = path.split("/")
    return len(path) <= 200 and all(_NAME.fullmatch(part) for part in parts)
