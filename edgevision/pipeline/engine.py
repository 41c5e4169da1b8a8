"""Build an engine from a bundle or an ONNX file: what ``edgevision build-engine`` does."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgevision.backends import get_backend
from edgevision.backends.base import Artifact, Backend, BuildOptions, ShapeRange
from edgevision.backends.onnx_file import read_onnx
from edgevision.bundle import ArtifactEntry, Bundle, add_engine, open_bundle
from edgevision.devices import package_versions
from edgevision.errors import InputError, UnavailableError, UsageError
from edgevision.files import write_json
from edgevision.pipeline.survey import target_status
from edgevision.targets import Target, load_target
from edgevision.types import LayerInfo

DEFAULT_BATCH = ShapeRange(1, 1, 32)
_FLOAT = ("fp32", "fp16", "bf16")
_BEST_FIRST = ("shipped", "candidate", "baseline", None)  # roles of graphs to build from


@dataclass(frozen=True)
class EngineResult:
    """A built engine.

    Attributes:
        target: that it was built for.
        place: the file, or its path inside the bundle.
        sidecar: what stands in the JSON beside it, and ``build_seconds``, which bundles leave out.
        layers: of the engine, with the precision that each runs in.
    """

    target: Target
    place: str
    sidecar: dict[str, Any]
    layers: tuple[LayerInfo, ...]


def build_engine(
    source: str | Path,
    target: str,
    *,
    out: str | Path | None = None,
    batch: ShapeRange | None = None,
    compute_capabilities: Sequence[str] = (),
    workspace_mb: int | None = None,
    timing_cache: str | Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> EngineResult:
    """Build an engine for ``target``.

    Args:
        source: a bundle (folder or zip), from which the graph of the target's quantization scheme
            is taken, or an ONNX file.
        target: name as ``load_target`` takes it.
        out: file to write, its sidecar ``<out>.json`` beside it. None: into the bundle, or beside
            the ONNX file.
        batch: sizes that the engine accepts, tuned for ``batch.opt``; None: 1 to 32, tuned for 1,
            or the batch that the graph is fixed to.
        compute_capabilities: SM names instead of the target's.
        workspace_mb: limit of the builder's scratch memory; None: a quarter of the memory of a
            target that is built on the device, else the builder's own limit.
        timing_cache: file that speeds up the next build where the builder has one.
        progress: called with (phase, done, total).

    Raises:
        UnavailableError: the target's engines cannot be built here; says where and how.
        UsageError: there is nothing to build: the target runs the ONNX file itself.
        InputError: ``source`` cannot be used, or the bundle has no graph for the target.
    """
    device = load_target(target)
    backend = get_backend(device.backend)
    status = target_status(device)
    if not status.builds.ok:
        raise UnavailableError(
            f"An engine for '{device.reference}' cannot be built here: {status.builds.reason}.",
            hint=status.hint,
        )
    if workspace_mb is None and device.builds == "on-device" and device.memory_mb:
        workspace_mb = device.memory_mb // 4
    options = BuildOptions(
        batch=batch or DEFAULT_BATCH,
        compute_capabilities=tuple(compute_capabilities) or device.compute_capabilities,
        workspace_mb=workspace_mb,
        timing_cache=Path(timing_cache) if timing_cache is not None else None,
        progress=progress,
    )
    path = Path(source)
    if path.suffix == ".onnx":
        if batch is None:
            options = replace(options, batch=_batch_of(path))
        file = Path(out) if out is not None else _beside(path, device, backend)
        return _to_file(device, backend, path, file, options)
    if backend.artifact_suffix == ".onnx":
        raise UsageError(
            f"Target '{device.name}' runs the bundle's ONNX file as it is: nothing to build."
        )
    with open_bundle(path) as bundle:
        entry = _graph_for(bundle, device)
        graph = bundle.path(entry)
        if out is not None:
            return _to_file(device, backend, graph, Path(out), options)
        name = f"{Path(entry.path).stem}{backend.artifact_suffix}"
        with tempfile.TemporaryDirectory() as folder:
            artifact = backend.build(graph, Path(folder) / name, options)
            sidecar = _sidecar(device, artifact)
            stored = add_engine(
                path,
                device.name,
                artifact.path,
                sidecar,
                backend=backend.name,
                role=entry.role,
                precision=entry.precision,
                scheme=entry.scheme,
                timing_cache=_existing(options.timing_cache),
            )
    return EngineResult(device, f"{path}/{stored.path}", sidecar, artifact.layers)


def _to_file(
    device: Target, backend: Backend, graph: Path, file: Path, options: BuildOptions
) -> EngineResult:
    artifact = backend.build(graph, file, options)
    sidecar = _sidecar(device, artifact)
    write_json(file.with_name(f"{file.name}.json"), sidecar)
    return EngineResult(device, str(file), sidecar, artifact.layers)


def _sidecar(device: Target, artifact: Artifact) -> dict[str, Any]:
    used = sorted({layer.precision for layer in artifact.layers} & set(_FLOAT))
    return {
        **artifact.meta,
        "target": device.reference,
        "scheme": device.scheme,
        "float_precision": {"wanted": device.float_precision.value, "used": used},
        "packages": package_versions(),
        "layers": [{**asdict(layer), "nodes": list(layer.nodes)} for layer in artifact.layers],
    }


def _graph_for(bundle: Bundle, device: Target) -> ArtifactEntry:
    """The graph of the target's scheme; one whose accuracy was never proven comes last."""
    graphs = [entry for entry in bundle.manifest.runnable() if entry.kind == "onnx"]
    graphs.sort(key=lambda entry: _BEST_FIRST.index(entry.role))
    for entry in graphs:
        if entry.scheme == device.scheme:
            return entry
    if device.scheme is None and graphs:
        return graphs[0]
    schemes = sorted({entry.scheme for entry in graphs if entry.scheme}) or ["none"]
    raise InputError(
        f"The bundle has no graph of the scheme '{device.scheme}', which target "
        f"'{device.name}' needs; it has: {', '.join(schemes)}.",
        hint=f"Compress it for that target: edgevision compress … --target {device.name}",
    )


def _batch_of(onnx: Path) -> ShapeRange:
    if not onnx.is_file():
        raise InputError(f"No file at {onnx}.")
    shape = read_onnx(onnx).inputs[0].shape
    size = shape[0] if shape else None
    return ShapeRange(size, size, size) if isinstance(size, int) else DEFAULT_BATCH


def _beside(onnx: Path, device: Target, backend: Backend) -> Path:
    return onnx.with_name(f"{onnx.stem}.{device.name}{backend.artifact_suffix}")


def _existing(path: Path | None) -> Path | None:
    return path if path is not None and path.is_file() else None
