"""Golden vectors: proof that this machine computes what the bundle's maker computed."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgevision.errors import BundleError, EdgeVisionError, LostConnectionError
from edgevision.runtime.choose import ranked
from edgevision.runtime.inputs import read_image
from edgevision.runtime.session import load

if TYPE_CHECKING:
    from edgevision.bundle import ArtifactEntry, Bundle, Golden
    from edgevision.machine import Machine

# An engine without outputs of its own is compared with the graph that it was built from; both
# round in INT8, each in its own way.
_ENGINE_ALLOWANCE = 2.0
# What numpy raises on damaged headers, which it reads as Python, and on sizes that cannot be.
_UNREADABLE = (
    ValueError,
    TypeError,
    OSError,
    EOFError,
    SyntaxError,
    TokenError,
    MemoryError,
    OverflowError,
    RecursionError,
    Warning,
)


@dataclass(frozen=True)
class GoldenCheck:
    """One output of one artifact against its golden vectors.

    Attributes:
        artifact, output: names.
        reference: the artifact whose stored outputs were expected.
        max_abs: largest absolute difference found.
        bound: largest accepted.
    """

    artifact: str
    output: str
    reference: str
    max_abs: float
    bound: float

    @property
    def ok(self) -> bool:
        """Whether the difference is within the bound; NaN is not."""
        return self.max_abs <= self.bound


@dataclass(frozen=True)
class GoldenResult:
    """What could be checked here, and what not with its reason.

    ``preprocessed`` images gave the stored tensor bit for bit.
    """

    preprocessed: int
    checks: tuple[GoldenCheck, ...]
    skipped: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(check.ok for check in self.checks)


def check_golden(
    bundle: Bundle, *, threads: int | None = None, machine: Machine | None = None
) -> GoldenResult:
    """Decode and preprocess the golden images, and run every artifact that runs on them.

    ``machine``: that runs the artifacts, None for this one.

    Raises:
        BundleError: there are no golden vectors, they do not fit together, or an image does not
            give its stored tensor bit for bit.
    """
    golden = bundle.manifest.golden
    if golden is None:
        raise BundleError(
            f"{bundle.source} has no golden vectors, so nothing proves that this machine "
            "computes the same."
        )
    tensor = _check_preprocessing(bundle, golden)
    checks: list[GoldenCheck] = []
    skipped: list[str] = []
    for entry, _, obstacle in ranked(bundle, machine):
        reference = _reference(bundle, golden, entry)
        if obstacle is None and reference is None:
            obstacle = "no golden outputs are stored for it"
        if obstacle is not None or reference is None:
            skipped.append(f"{entry.path}: {obstacle}")
            continue
        try:
            checks += _check_outputs(bundle, golden, entry, reference, tensor, threads, machine)
        except (BundleError, LostConnectionError):
            raise
        except EdgeVisionError as error:  # a driver may refuse what fits by its sidecar
            if entry.kind != "engine":
                raise
            skipped.append(f"{entry.path}: {error.message}")
    return GoldenResult(len(golden.images), tuple(checks), tuple(skipped))


def golden_tensor(bundle: Bundle, golden: Golden) -> npt.NDArray[np.float32]:
    """(N, C, height, width) float32: the golden images as they were preprocessed.

    Raises:
        BundleError: the file holds something else.
    """
    stored = _array(bundle.path(golden.tensor))
    expected = (len(golden.images), *bundle.manifest.preprocess().input_shape)
    if stored.shape != expected or stored.dtype != np.float32:
        raise BundleError(
            f"'{golden.tensor}' expected: float32 {expected}, found: {stored.dtype} {stored.shape}."
        )
    return stored


def _check_preprocessing(bundle: Bundle, golden: Golden) -> npt.NDArray[np.float32]:
    stored = golden_tensor(bundle, golden)
    preprocessing = bundle.manifest.preprocess()
    for name, row in zip(golden.images, stored, strict=True):
        tensor = preprocessing(read_image(bundle.path(name)))[0]
        if tensor.tobytes() != np.ascontiguousarray(row).tobytes():
            with np.errstate(invalid="ignore"):
                off = float(np.abs(tensor - row).max())
            raise BundleError(
                f"Preprocessing of '{name}' expected: the stored tensor bit for bit, found: a "
                f"difference of up to {off:.3g}.",
                hint="Pillow or numpy of another version computes otherwise here.",
            )
    return stored


def _reference(bundle: Bundle, golden: Golden, entry: ArtifactEntry) -> str | None:
    """The artifact whose stored outputs ``entry`` has to give."""
    if entry.path in golden.outputs:
        return entry.path
    source = entry.meta.get("onnx_sha256")
    for other in bundle.manifest.runnable():
        if other.sha256 == source and other.path in golden.outputs:
            return other.path
    return None


def _check_outputs(
    bundle: Bundle,
    golden: Golden,
    entry: ArtifactEntry,
    reference: str,
    tensor: npt.NDArray[np.float32],
    threads: int | None,
    machine: Machine | None,
) -> list[GoldenCheck]:
    allowance = 1.0 if reference == entry.path else _ENGINE_ALLOWANCE
    with load(bundle, artifact=entry.path, threads=threads, machine=machine) as model:
        found = model.infer_tensor(tensor)
    checks = []
    for name, path in golden.outputs[reference].items():
        stored = _array(bundle.path(path))
        if name not in found or found[name].shape != stored.shape:
            have = {key: value.shape for key, value in found.items()}
            raise BundleError(
                f"'{entry.path}' expected: output '{name}' of shape {stored.shape}, found: {have}."
            )
        with np.errstate(invalid="ignore"):
            distance = np.abs(found[name].astype(np.float64) - stored.astype(np.float64))
        bound = allowance * golden.bounds[reference]
        checks.append(GoldenCheck(entry.path, name, reference, float(distance.max()), bound))
    return checks


def _array(path: Path) -> npt.NDArray[Any]:
    try:
        # Not np.load, which would take a zip for a set of arrays.
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("error")  # of headers that are mended by guessing
            array: npt.NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    except _UNREADABLE as error:
        raise BundleError(f"'{path.name}' is no readable .npy file: {error}") from error
    if array.dtype.kind not in "fiu" or not array.size:
        raise BundleError(f"'{path.name}' must hold a numeric array that is not empty.")
    return array
