"""Writes a bundle: into a temporary folder first, renamed into place when it is whole."""

from __future__ import annotations

import hashlib
import io
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import ValidationError

from edgevision.bundle import integrity
from edgevision.bundle.archive import write_archive
from edgevision.bundle.manifest import (
    MANIFEST_NAME,
    ArtifactEntry,
    Golden,
    Lineage,
    Manifest,
    TensorEntry,
    Verdict,
    check_path,
    parse_manifest,
)
from edgevision.bundle.reader import open_bundle
from edgevision.errors import InputError, StorageError, UsageError
from edgevision.files import atomic_path, publish_folder
from edgevision.preprocessing import Float32, Preprocessing
from edgevision.types import TensorSpec

# Accepted difference on another machine, as a share of the largest expected value. The same
# kernels give equal outputs; other ones sum in another order, which in INT8 may move a value by
# a quantization step or two.
_BOUNDS = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 3e-2, "int8": 5e-2}

Kind = Literal[
    "onnx", "engine", "sidecar", "timing-cache", "calibration", "golden", "report", "recipe"
]
Role = Literal["baseline", "shipped", "candidate"]


class BundleWriter:
    """Collects the files of one bundle. The same inputs give the same bytes.

    Use as a context manager: leaving it without ``finish`` keeps nothing.

    Example:
        >>> with BundleWriter(folder, task="classification", labels=labels, target="cpu",
        ...                   inputs=[...], outputs=[...], preprocessing=preprocessing) as writer:
        ...     writer.add_file(fp32, "model.fp32.onnx", kind="onnx", role="baseline",
        ...                     backend="onnxruntime", precision="fp32")
        ...     tensor = writer.add_golden_inputs(images)
        ...     writer.add_golden_outputs("model.fp32.onnx", runner.infer({"input": tensor}))
        ...     writer.finish(lineage=lineage, verdict=verdict)

    Args:
        folder: the bundle's place; a bundle that is there is replaced by ``finish``.
        task, labels, target: names; labels in head order.
        inputs, outputs: of the network.
        preprocessing: of the one image input.

    Raises:
        StorageError: ``folder`` is there and holds something other than a bundle.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        task: str,
        labels: Sequence[str],
        target: str,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        preprocessing: Preprocessing,
    ) -> None:
        self.folder = Path(folder)
        self._facts: dict[str, Any] = {
            "task": task,
            "labels": tuple(labels),
            "target": target,
            "inputs": tuple(TensorEntry.of(spec) for spec in inputs),
            "outputs": tuple(TensorEntry.of(spec) for spec in outputs),
            "preprocessing": preprocessing.to_dict(),
        }
        self._preprocessing = preprocessing
        self._entries: dict[str, ArtifactEntry] = {}
        self._golden: Golden | None = None
        self._check_place()
        parent = self.folder.absolute().parent
        parent.mkdir(parents=True, exist_ok=True)
        self._temporary = Path(tempfile.mkdtemp(dir=parent, prefix=f".{self.folder.name}.tmp."))
        self._temporary.chmod(0o755)

    def _check_place(self) -> None:
        if not self.folder.exists() or (self.folder / MANIFEST_NAME).is_file():
            return
        if not self.folder.is_dir() or any(self.folder.iterdir()):
            raise StorageError(
                f"{self.folder} is there and is no bundle, so it is not replaced.",
                hint="Choose another folder, or remove this one.",
            )

    def add_file(
        self,
        source: str | Path,
        path: str,
        *,
        kind: Kind,
        role: Role | None = None,
        backend: str | None = None,
        scheme: str | None = None,
        precision: str | None = None,
        target: str | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> ArtifactEntry:
        """Copy ``source`` into the bundle as ``path``; see ``ArtifactEntry`` for the rest.

        Raises:
            InputError: there is no such file.
            UsageError: ``path`` is taken.
        """
        if not Path(source).is_file():
            raise InputError(f"No file at {source}.")
        with Path(source).open("rb") as stream:
            return self._add(
                stream,
                path,
                kind=kind,
                role=role,
                backend=backend,
                scheme=scheme,
                precision=precision,
                target=target,
                meta=dict(meta or {}),
            )

    def add_bytes(
        self, data: bytes, path: str, *, kind: Kind, meta: Mapping[str, Any] | None = None
    ) -> ArtifactEntry:
        """Store ``data`` in the bundle as ``path``; for files that are not run.

        Raises:
            UsageError: ``path`` is taken.
        """
        return self._add(io.BytesIO(data), path, kind=kind, meta=dict(meta or {}))

    def _add(self, stream: Any, path: str, **facts: Any) -> ArtifactEntry:
        if check_path(path) in self._entries or path == MANIFEST_NAME:
            raise UsageError(f"'{path}' is in the bundle already.")
        place = self._temporary / path
        place.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        size = 0
        with place.open("xb") as file:
            while chunk := stream.read(integrity.CHUNK):
                digest.update(chunk)
                size += len(chunk)
                file.write(chunk)
        entry = ArtifactEntry(path=path, sha256=digest.hexdigest(), size=size, **facts)
        self._entries[path] = entry
        return entry

    def add_golden_inputs(self, images: Sequence[npt.NDArray[np.uint8]]) -> Float32:
        """Store images and their preprocessed tensor.

        Args:
            images: (H, W, 3) uint8 RGB each, as decoded, before preprocessing.

        Returns:
            (N, C, height, width) float32, to compute the expected outputs from.

        Raises:
            UsageError: no image, or golden inputs are there already.
            DataError: an image of wrong shape or dtype.
        """
        if self._golden is not None or not images:
            raise UsageError("Golden inputs are stored once, and at least one image.")
        tensor = np.concatenate([self._preprocessing(image) for image in images])
        names = []
        for number, image in enumerate(images):
            names.append(f"golden/inputs/{number:03d}.png")
            self.add_bytes(_png(image), names[-1], kind="golden")
        self.add_bytes(_npy(tensor), "golden/tensor.npy", kind="golden")
        self._golden = Golden(images=tuple(names), tensor="golden/tensor.npy")
        return tensor

    def add_golden_outputs(
        self,
        path: str,
        outputs: Mapping[str, npt.NDArray[Any]],
        *,
        bound: float | None = None,
    ) -> None:
        """Store what the artifact ``path`` gives for the golden tensor.

        Args:
            path: of a runnable artifact that was added before.
            outputs: by name, with a leading axis of one entry an image.
            bound: largest accepted absolute difference on the device; None: a share of the
                largest expected value, by the artifact's precision.

        Raises:
            UsageError: no golden inputs, no such artifact, or outputs of another length.
            InputError: outputs that are not finite.
        """
        entry = self._entries.get(path)
        if self._golden is None or entry is None or entry.kind not in ("onnx", "engine"):
            raise UsageError(f"Add golden inputs and the runnable artifact '{path}' first.")
        count = len(self._golden.images)
        stored: dict[str, str] = {}
        largest = 0.0
        for name, array in outputs.items():
            if array.shape[:1] != (count,):
                raise UsageError(f"Output '{name}' expected: {count} rows, got {array.shape}.")
            if not np.isfinite(array).all():
                raise InputError(f"Output '{name}' of '{path}' holds NaN or infinity.")
            largest = max(largest, float(np.abs(array).max(initial=0)))
            stored[name] = f"golden/outputs/{path.replace('/', '.')}/{len(stored)}.npy"
            self.add_bytes(_npy(array), stored[name], kind="golden", meta={"output": name})
        share = _BOUNDS.get(entry.precision or "fp32", _BOUNDS["int8"])
        self._golden = self._golden.model_copy(
            update={
                "outputs": {**self._golden.outputs, path: stored},
                "bounds": {
                    **self._golden.bounds,
                    path: share * max(largest, 1e-3) if bound is None else bound,
                },
            }
        )

    def finish(self, *, lineage: Lineage, verdict: Verdict | None = None) -> Manifest:
        """Write the manifest and move the bundle to its place, all or nothing.

        Raises:
            UsageError: there are no files or no labels.
        """
        try:
            manifest = Manifest(
                **self._facts,
                artifacts=tuple(self._entries[path] for path in sorted(self._entries)),
                golden=self._golden,
                lineage=lineage,
                verdict=verdict,
            )
        except ValidationError as error:
            raise UsageError(f"The bundle is not complete: {error}") from error
        data = manifest.to_bytes()
        parse_manifest(data)  # what cannot be read back is never shipped
        (self._temporary / MANIFEST_NAME).write_bytes(data)
        publish_folder(self._temporary, self.folder.absolute())
        return manifest

    def __enter__(self) -> BundleWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        shutil.rmtree(self._temporary, ignore_errors=True)


def write_zip(folder: str | Path, path: str | Path) -> Path:
    """Pack the bundle ``folder`` into the zip ``path``; equal bundles give equal bytes.

    Raises:
        BundleError: the bundle is damaged.
    """
    with open_bundle(folder) as bundle, atomic_path(Path(path)) as temporary:
        write_archive(bundle.folder, bundle.manifest, temporary)
    return Path(path)


def _png(image: npt.NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(stream, "PNG", compress_level=6)
    return stream.getvalue()


def _npy(array: npt.NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(array), allow_pickle=False)
    return stream.getvalue()
