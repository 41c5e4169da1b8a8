"""``manifest.json``: what a bundle holds. Read only after ``integrity`` has checked its form."""

from __future__ import annotations

import json
import re
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from edgevision.errors import BundleError, InputError
from edgevision.preprocessing import Preprocessing
from edgevision.types import TensorSpec

SCHEMA_VERSION: Final = 1
MANIFEST_NAME = "manifest.json"
SIGNATURE_NAME = "model.sig"  # of the manifest, and so not named in it
Role = Literal["baseline", "shipped", "candidate"]

# Plain names only: no drive, backslash, dot-dot, hidden file, control or non-ASCII character, so
# that a path means the same on every system.
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_+.-]*(?<!\.)")
_MAX_PATH = 200
_MAX_MESSAGE = 500  # of what a hostile manifest may make us say


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def check_path(path: str) -> str:
    """``path`` itself if it is a plain relative path with forward slashes.

    Raises:
        BundleError: it is absolute, leaves the folder or holds unusual characters.
    """
    parts = path.split("/")
    if len(path) > _MAX_PATH or not all(_PART.fullmatch(part) for part in parts):
        raise BundleError(
            f"Path in a bundle must be relative, at most {_MAX_PATH} characters long, of letters, "
            f"digits and '_+.-', and stay inside the folder; got {path[:_MAX_PATH]!r}."
        )
    return path


class TensorEntry(_Model):
    """A network input or output; see ``edgevision.types.TensorSpec``."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str = "float32"

    @classmethod
    def of(cls, spec: TensorSpec) -> TensorEntry:
        """The entry for ``spec``."""
        return cls(name=spec.name, shape=spec.shape, dtype=spec.dtype)

    def spec(self) -> TensorSpec:
        """The value that the rest of the package works with."""
        return TensorSpec(self.name, self.shape, self.dtype)


class ArtifactEntry(_Model):
    """One file of the bundle beside the manifest.

    Attributes:
        path: relative to the bundle, forward slashes.
        kind: what the file is; only ``onnx`` and ``engine`` can be run.
        role: ``baseline`` is the FP32 network, ``shipped`` what the verdict speaks of;
            ``candidate`` is neither, but within the accuracy budget. None for files that cannot
            be run, and for graphs and engines whose accuracy was never proven.
        backend, scheme, precision, target: of runnable files, e.g. ``onnxruntime``,
            ``x86-vnni``, ``int8``, ``cpu``. The backend is the one that the file is for and was
            measured on.
        sha256, size: of the file's bytes.
        meta: plain facts from the build, e.g. an engine's compute capabilities.
    """

    path: str
    kind: Literal[
        "onnx", "engine", "sidecar", "timing-cache", "calibration", "golden", "report", "recipe"
    ]
    role: Role | None = None
    backend: str | None = None
    scheme: str | None = None
    precision: str | None = None
    target: str | None = None
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)
    meta: dict[str, JsonValue] = Field(default_factory=dict)


class Golden(_Model):
    """Proof vectors. Every path names an artifact of kind ``golden``.

    Attributes:
        images: PNG files, RGB, before preprocessing.
        tensor: ``.npy``, float32 (N, C, H, W): the images after preprocessing, bit for bit.
        outputs: artifact path → output name → ``.npy`` with a leading axis of N.
        bounds: artifact path → largest accepted absolute difference from its outputs.
    """

    images: tuple[str, ...]
    tensor: str
    outputs: dict[str, dict[str, str]] = Field(default_factory=dict)
    bounds: dict[str, float] = Field(default_factory=dict)

    def paths(self) -> list[str]:
        """Every file named here."""
        named = [path for outputs in self.outputs.values() for path in outputs.values()]
        return [*self.images, self.tensor, *named]


class AccuracyVerdict(_Model):
    """Accuracy over the whole validation set, both through the runtime that ships, in percent."""

    metric: str
    baseline: float
    candidate: float
    drop: float
    budget: float
    n_images: int
    per_class: dict[str, tuple[float | None, float | None]] | None = None  # baseline, candidate


class LatencyVerdict(_Model):
    """p50 of one inference in ms, and ``ratio`` = baseline / candidate: above 1 is faster."""

    baseline: float
    candidate: float
    ratio: float
    low: float
    high: float


class Verdict(_Model):
    """Whether the shipped artifact keeps its promises; ``exit_code`` is 0, 4 or 5."""

    passed: bool
    exit_code: int
    reasons: tuple[str, ...] = ()
    accuracy: AccuracyVerdict | None = None
    latency: LatencyVerdict | None = None


class Lineage(_Model):
    """What the bundle was made from.

    Attributes:
        model, data: the references that the user gave.
        recipe: digest of the recipe.
        digests: other inputs, e.g. ``{"validation": "…", "calibration": "…", "weights": "…"}``.
        stages: stage name → its content address.
        versions: package → version at build time.
    """

    model: str
    data: str | None = None
    recipe: str | None = None
    digests: dict[str, str] = Field(default_factory=dict)
    stages: dict[str, str] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)


class Manifest(_Model):
    """The whole description of a bundle."""

    schema_version: Literal[1] = SCHEMA_VERSION
    task: str
    labels: tuple[str, ...] = Field(min_length=1)
    target: str
    inputs: tuple[TensorEntry, ...] = Field(min_length=1)
    outputs: tuple[TensorEntry, ...] = Field(min_length=1)
    preprocessing: dict[str, JsonValue]
    artifacts: tuple[ArtifactEntry, ...] = Field(min_length=1)
    golden: Golden | None = None
    lineage: Lineage
    verdict: Verdict | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        seen: set[str] = {MANIFEST_NAME, SIGNATURE_NAME}
        for entry in self.artifacts:
            if check_path(entry.path).lower() in seen:
                raise BundleError(f"Manifest names '{entry.path}' twice.")
            seen.add(entry.path.lower())
        for path in seen:
            if any(other.startswith(f"{path}/") for other in seen):
                raise BundleError(f"Manifest names '{path}' both as a file and as a folder.")
        kinds = {entry.path: entry.kind for entry in self.artifacts}
        for path in self.golden.paths() if self.golden else ():
            if kinds.get(path) != "golden":
                raise BundleError(f"Golden vector '{path[:_MAX_PATH]}' is not among the artifacts.")
        runnable = {path for path, kind in kinds.items() if kind in ("onnx", "engine")}
        stray = set(self.golden.outputs) ^ set(self.golden.bounds) if self.golden else set()
        if self.golden and (stray or not set(self.golden.outputs) <= runnable):
            raise BundleError("Golden outputs and bounds must name the same runnable artifacts.")
        self.preprocess()
        return self

    def preprocess(self) -> Preprocessing:
        """The preprocessing as the runtime computes it."""
        return Preprocessing.from_dict(dict(self.preprocessing))

    def artifact(self, path: str) -> ArtifactEntry:
        """The entry of ``path``.

        Raises:
            BundleError: there is none; the message lists the runnable ones.
        """
        for entry in self.artifacts:
            if entry.path == path:
                return entry
        names = ", ".join(entry.path for entry in self.runnable()) or "none"
        raise BundleError(f"No artifact '{path}' in the bundle. Runnable: {names}.")

    def runnable(self) -> list[ArtifactEntry]:
        """ONNX files and engines, in the manifest's order."""
        return [entry for entry in self.artifacts if entry.kind in ("onnx", "engine")]

    def to_bytes(self) -> bytes:
        """UTF-8 JSON with sorted keys: equal manifests give equal bytes."""
        text = json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True)
        return text.encode() + b"\n"


def parse_manifest(data: bytes) -> Manifest:
    """Read the manifest strictly.

    Raises:
        BundleError: no JSON object, a key given twice, NaN, an unknown version or field, or a
            value out of range; says which.
    """
    try:
        values = json.loads(data, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{MANIFEST_NAME} is no valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise BundleError(f"{MANIFEST_NAME} must hold a JSON object, got {type(values).__name__}.")
    version = values.get("schema_version")
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise BundleError(
            f"Bundle has schema version {str(version)[:40]}, this EdgeVision reads "
            f"{SCHEMA_VERSION}.",
            hint="Upgrade edgevision, or make the bundle again with this version.",
        )
    try:
        return Manifest.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the manifest"
        more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
        text = f"{place[:_MAX_PATH]}: {first['msg'][:_MAX_MESSAGE]}{more}"
        raise BundleError(f"{MANIFEST_NAME}: {text}") from error
    except BundleError:
        raise
    except (InputError, RecursionError, OverflowError) as error:
        raise BundleError(f"{MANIFEST_NAME}: {str(error)[:_MAX_MESSAGE]}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key is given twice")
    return values


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not allowed")
