"""Takes a kit's result back: the engine with its sidecar into the bundle, or into a file."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from edgevision.backends.onnx_file import read_onnx
from edgevision.backends.tensorrt import TensorRTBackend
from edgevision.bundle import ArtifactEntry, Bundle, add_engine, open_bundle
from edgevision.errors import InputError, UsageError
from edgevision.files import atomic_path, write_json
from edgevision.kit.contents import ENGINE, KIT, TIMING_CACHE, Kit, parse_kit
from edgevision.kit.describing import Described, describe
from edgevision.kit.reading import opened_result


@dataclass(frozen=True)
class Imported:
    """An engine that came back.

    Attributes:
        place: the file, or its path inside the bundle.
        kit: that it was built with.
        found: what its result says.
    """

    place: str
    kit: Kit
    found: Described


def import_kit(
    result: str | Path, *, bundle: str | Path | None = None, out: str | Path | None = None
) -> Imported:
    """Put the engine of a kit's result into the bundle that the kit was made of, or into a file.

    Hashes tell damage, not deceit: an engine is native code, so take it from boards you trust.

    Args:
        result: ``result.tar.gz`` or the folder ``result``.
        bundle: folder or zip; it must hold the graph that the kit was made of.
        out: engine file to write, its sidecar ``<out>.json`` beside it.

    Raises:
        UsageError: neither or both of ``bundle`` and ``out`` are given, or the kit is of an ONNX
            file and ``bundle`` is given.
        InputError: the result is damaged, hostile, or of another board, kit or bundle.
        ModelError: trtexec read the graph otherwise than it was meant.
        BundleError: the bundle is damaged, or has no such graph.
    """
    with opened_result(Path(result)) as folder:
        kit = parse_kit((folder / KIT).read_bytes())
        if kit.target.backend != TensorRTBackend.name:
            raise InputError(f"The result is for the backend '{kit.target.backend[:40]}'.")
        if out is not None and bundle is None:
            return _to_file(folder, kit, Path(out))
        if bundle is not None and out is None:
            return _to_bundle(folder, kit, Path(bundle))
    raise UsageError("Say where the engine goes: --bundle BUNDLE, or --out FILE.")


def _to_file(folder: Path, kit: Kit, file: Path) -> Imported:
    found = describe(folder, kit, None)
    with atomic_path(file) as temporary:
        shutil.copyfile(folder / ENGINE, temporary)
    write_json(file.with_name(f"{file.name}.json"), found.sidecar)
    return Imported(str(file), kit, found)


def _to_bundle(folder: Path, kit: Kit, bundle: Path) -> Imported:
    if kit.source.bundle is None:
        raise UsageError(
            f"The kit was made of the file '{kit.source.path[:100]}', not of a bundle.",
            hint="Write the engine to a file: --out FILE",
        )
    with open_bundle(bundle) as opened:
        entry = _entry(opened, kit)
        found = describe(folder, kit, read_onnx(opened.path(entry)))
    with TemporaryDirectory() as temporary:
        engine = Path(temporary) / f"{Path(entry.path).stem}{TensorRTBackend.artifact_suffix}"
        shutil.copyfile(folder / ENGINE, engine)
        cache = folder / TIMING_CACHE
        stored = add_engine(
            bundle,
            kit.target.name,
            engine,
            found.sidecar,
            backend=kit.target.backend,
            role=entry.role,
            precision=entry.precision,
            scheme=entry.scheme,
            timing_cache=cache if cache.is_file() else None,
        )
    return Imported(f"{bundle}/{stored.path}", kit, found)


def _entry(bundle: Bundle, kit: Kit) -> ArtifactEntry:
    """The graph that the kit was made of."""
    entry = bundle.manifest.artifact(kit.source.path)
    if entry.sha256 != kit.source.sha256 or entry.kind != "onnx":
        raise InputError(
            f"The kit was made of another bundle: '{entry.path}' expected: sha256 "
            f"{kit.source.sha256}, found: {entry.sha256}.",
            hint="Give the bundle that the kit was made of, or make a kit of this one.",
        )
    return entry
