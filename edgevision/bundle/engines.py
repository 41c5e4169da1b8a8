"""Adds an engine that was built later, on the device or for it, to a finished bundle."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from edgevision.bundle.archive import write_archive
from edgevision.bundle.integrity import ENGINES
from edgevision.bundle.manifest import (
    MANIFEST_NAME,
    SIGNATURE_NAME,
    ArtifactEntry,
    Manifest,
    Role,
    check_path,
    parse_manifest,
)
from edgevision.bundle.reader import Bundle, open_bundle
from edgevision.errors import InputError
from edgevision.files import atomic_path, sha256_file, write_atomic

_LOG = logging.getLogger(__name__)

# Facts of the sidecar that the runtime's choice needs; the rest stays in the sidecar file.
CHOICE_FACTS = (
    "compute_capabilities",
    "hardware_compatibility",
    "version_compatible",
    "version",
    "platform",
    "dla_core",
    "batch",
    "onnx_sha256",
)
# Left out of a bundle: they differ between two builds of the same engine.
_VOLATILE = frozenset({"build_seconds"})


def add_engine(
    bundle: str | Path,
    target: str,
    engine: str | Path,
    sidecar: Mapping[str, Any],
    *,
    backend: str,
    role: Role | None = "shipped",
    precision: str | None = None,
    scheme: str | None = None,
    timing_cache: str | Path | None = None,
) -> ArtifactEntry:
    """Put an engine into ``engines/<target>/<hash>/`` with its sidecar, and into the manifest.

    An engine of the same target and file name is replaced, and damaged ones are dropped. The new
    files get a folder of their own and the manifest is renamed into place after them, so a kill
    leaves the bundle as it was. A zip is written anew. The signature of a signed bundle no longer
    holds and goes.

    Args:
        bundle: folder or zip.
        target: name of the target that it was built for.
        engine: the file; its name is kept.
        sidecar: plain JSON values: compute capabilities, versions, flags, ONNX hash, layers. The
            time that the build took is not stored; hashes of the bundle's calibration are, beside
            an engine with a ``scheme``.
        backend: that opens it, e.g. ``tensorrt_rtx``.
        role: of the graph that it was built from; None is run only when it is named.
        precision, scheme: of the network inside.
        timing_cache: of the build, kept for the next one.

    Raises:
        BundleError: the bundle is damaged, or the engine's name is no plain file name.
        InputError: a file is missing, or the sidecar holds something other than JSON values.
    """
    source = Path(engine)
    for path in (source, Path(timing_cache or source)):
        if not path.is_file():
            raise InputError(f"No file at {path}.")
    folder = f"{ENGINES}/{target}/{sha256_file(source)[:16]}"
    name = check_path(f"{folder}/{source.name}")
    with open_bundle(bundle, strict=False) as opened:
        facts = {key: value for key, value in sidecar.items() if key not in _VOLATILE}
        if scheme is not None:
            facts["calibration"] = _calibration(opened.manifest)
        try:
            text = json.dumps(facts, indent=2, sort_keys=True, allow_nan=False).encode() + b"\n"
        except (TypeError, ValueError) as error:
            raise InputError(f"Sidecar of {engine} must hold plain JSON values: {error}") from error
        entries = {
            name: _store(
                opened.folder,
                name,
                source,
                kind="engine",
                role=role,
                backend=backend,
                precision=precision,
                scheme=scheme,
                target=target,
                meta={key: sidecar[key] for key in CHOICE_FACTS if key in sidecar},
            ),
            f"{name}.json": _store(opened.folder, f"{name}.json", text, kind="sidecar"),
        }
        if timing_cache:
            cache = f"{folder}/timing.cache"
            entries[cache] = _store(opened.folder, cache, Path(timing_cache), kind="timing-cache")
        gone = _replaced(opened.manifest, target, source.name) | opened.damaged.keys()
        manifest = _with(opened.manifest, entries, gone)
        write_atomic(opened.folder / MANIFEST_NAME, manifest.to_bytes())
        if (opened.folder / SIGNATURE_NAME).is_file():
            (opened.folder / SIGNATURE_NAME).unlink()
            _LOG.warning("The bundle has changed, its signature is gone: sign it again.")
        _remove_unnamed(opened.folder / ENGINES / target, opened.folder, manifest)
        if opened.source.is_file():
            with atomic_path(opened.source) as temporary:
                write_archive(opened.folder, manifest, temporary)
    return entries[name]


def engine_sidecar(bundle: Bundle, entry: ArtifactEntry) -> dict[str, Any]:
    """The sidecar of the engine ``entry``.

    Raises:
        BundleError: the engine has none.
        InputError: it is no JSON object.
    """
    path = bundle.path(f"{entry.path}.json")
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"Sidecar '{entry.path}.json' is no valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"Sidecar '{entry.path}.json' must hold a JSON object.")
    return values


def _store(folder: Path, name: str, source: Path | bytes, **facts: Any) -> ArtifactEntry:
    with atomic_path(folder / name) as temporary:
        if isinstance(source, bytes):
            temporary.write_bytes(source)
        else:
            shutil.copyfile(source, temporary)
    stored = folder / name
    return ArtifactEntry(path=name, sha256=sha256_file(stored), size=stored.stat().st_size, **facts)


def _calibration(manifest: Manifest) -> dict[str, str]:
    """Path → sha256 of what the quantized graphs were calibrated with."""
    found = [entry for entry in manifest.artifacts if entry.kind == "calibration"]
    return {entry.path: entry.sha256 for entry in found}


def _replaced(manifest: Manifest, target: str, engine: str) -> set[str]:
    """Engines with the same target and file name."""
    return {
        entry.path
        for entry in manifest.artifacts
        if entry.kind == "engine"
        and entry.path.startswith(f"{ENGINES}/{target}/")
        and entry.path.endswith(f"/{engine}")
    }


def _with(
    manifest: Manifest, entries: Mapping[str, ArtifactEntry], gone: Collection[str]
) -> Manifest:
    """The manifest with ``entries``, without the engines ``gone`` and what lies beside them."""
    folders = tuple(
        f"{path.rpartition('/')[0]}/"
        for path in gone
        if path.startswith(f"{ENGINES}/") and path.count("/") == 3  # as add_engine lays them out
    )
    kept = {
        entry.path: entry
        for entry in manifest.artifacts
        if entry.path not in gone and not entry.path.startswith(folders)
    }
    artifacts = {**kept, **entries}
    golden = manifest.golden
    if golden is not None:
        # Outputs of an engine that is replaced prove nothing about the new one.
        golden = golden.model_copy(
            update={
                "outputs": {k: v for k, v in golden.outputs.items() if k in kept},
                "bounds": {k: v for k, v in golden.bounds.items() if k in kept},
            }
        )
    changed = manifest.model_copy(
        update={"artifacts": tuple(artifacts[path] for path in sorted(artifacts)), "golden": golden}
    )
    return parse_manifest(changed.to_bytes())


def _remove_unnamed(engines: Path, root: Path, manifest: Manifest) -> None:
    """Remove what replaced engines and killed builds left behind."""
    named = {entry.path for entry in manifest.artifacts}
    for path in sorted(engines.rglob("*"), reverse=True):
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.relative_to(root).as_posix() not in named:
            path.unlink()
