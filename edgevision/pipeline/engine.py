"""Build an engine from a bundle or an ONNX file: what ``edgevision build-engine`` does."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgevision.backends import get_backend
from edgevision.backends._trt_common import TensorRTFamily
from edgevision.backends.base import Artifact, Backend, BuildOptions, ShapeRange
from edgevision.backends.onnx_file import read_onnx
from edgevision.backends.shapes import InputShapes
from edgevision.backends.tensorrt import TensorRTBackend
from edgevision.bundle import ArtifactEntry, Bundle, add_engine, open_bundle
from edgevision.errors import InputError, UnavailableError, UsageError
from edgevision.files import sha256_file, write_json
from edgevision.machine import Machine, ThisMachine
from edgevision.pipeline.half_engine import in_half
from edgevision.pipeline.survey import status_there, target_status
from edgevision.pipeline.timing_cache import timing_cache_of
from edgevision.targets import Target, load_target
from edgevision.types import LayerInfo, Precision

DEFAULT_BATCH = ShapeRange(1, 1, 32)
_FOR_TENSORRT = (
    *("shapes", "builder_level", "dla_core", "sparsity", "version_compatible"),
    *("hardware_compatible", "refit", "weight_streaming"),
)
_FLOAT = ("fp32", "fp16", "bf16")
AS_PROVEN = (
    "A float precision is for ONNX files; a bundle's accuracy was proven for the graph as it is."
)
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
    shapes: Mapping[str, InputShapes] | None = None,
    float_precision: Precision | None = None,
    workspace_mb: int | None = None,
    builder_level: int | None = None,
    timing_cache: str | Path | None = None,
    dla_core: int | None = None,
    sparsity: bool = False,
    version_compatible: bool = False,
    hardware_compatible: bool = False,
    refit: bool = False,
    weight_streaming: bool = False,
    machine: Machine | None = None,
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
        shapes: all axes of inputs whose free axes are not the batch alone.
        float_precision: of what is not INT8. None: the target's, but what a bundle has proven is
            built as it is. TensorRT 10 and later get a converted graph, TensorRT 8 is told.
        workspace_mb: limit of the builder's scratch memory; None: a quarter of the memory of a
            target that is built on the device, else the builder's own limit.
        timing_cache: file that speeds up the next build where the builder has one; None: for
            TensorRT one in the user's cache folder, of this machine, version and power mode.
        builder_level, dla_core, sparsity, version_compatible, hardware_compatible, refit,
            weight_streaming: as in ``BuildOptions``, for TensorRT alone.
        machine: to build on, None for this one.
        progress: called with (phase, done, total).

    Raises:
        UnavailableError: the target's engines cannot be built here, or not with such an option;
            says where and how.
        UsageError: there is nothing to build: the target runs the ONNX file itself, or it takes no
            such option.
        InputError: ``source`` cannot be used, or the bundle has no graph for the target.
    """
    device = load_target(target)
    backend = get_backend(device.backend)
    options = options_for(
        device,
        batch=batch,
        shapes=shapes,
        compute_capabilities=tuple(compute_capabilities) or device.compute_capabilities,
        float_precision=float_precision,
        workspace_mb=workspace_mb,
        builder_level=builder_level,
        timing_cache=Path(timing_cache) if timing_cache is not None else None,
        dla_core=dla_core,
        sparsity=sparsity,
        version_compatible=version_compatible,
        hardware_compatible=hardware_compatible,
        refit=refit,
        weight_streaming=weight_streaming,
        progress=progress,
    )
    there = machine or ThisMachine()
    status = target_status(device) if machine is None else status_there(device, machine)
    if not status.builds.ok:
        raise UnavailableError(
            f"An engine for '{device.reference}' cannot be built "
            f"{'here' if machine is None else f'on {machine}'}: {status.builds.reason}.",
            hint=status.hint,
        )
    if machine is not None and timing_cache is not None:
        raise UsageError("A timing cache is kept on the device itself, of its own power mode.")
    if machine is None and timing_cache is None and isinstance(backend, TensorRTBackend):
        options = replace(options, timing_cache=timing_cache_of(backend.version()))
    path = Path(source)
    if path.suffix == ".onnx":
        if batch is None and not shapes:
            options = replace(options, batch=batch_of(path))
        file = Path(out) if out is not None else _beside(path, device, backend)
        half = options.float_precision is Precision.FP16
        with tempfile.TemporaryDirectory() as folder:
            graph = path
            if half and there.takes_types_from_graph(backend.name):
                graph = in_half(path, Path(folder), is_asked=float_precision is not None)
            result = _to_file(device, there, graph, file, options)
        return result if graph == path else _of_source(result, path)
    if backend.artifact_suffix == ".onnx":
        raise UsageError(
            f"Target '{device.name}' runs the bundle's ONNX file as it is: nothing to build."
        )
    if float_precision is not None:
        raise UsageError(AS_PROVEN)
    with open_bundle(path, strict=False) as bundle:
        entry = graph_for(bundle, device)
        graph = bundle.path(entry)
        if out is not None:
            return _to_file(device, there, graph, Path(out), options)
        name = f"{Path(entry.path).stem}{backend.artifact_suffix}"
        with tempfile.TemporaryDirectory() as folder:
            artifact = there.build(backend.name, graph, Path(folder) / name, options)
            sidecar = sidecar_of(device, there.versions(), artifact, options.float_precision)
            stored = add_engine(
                path,
                device.name,
                artifact.path,
                sidecar,
                backend=backend.name,
                role=entry.role,
                precision=entry.precision,
                scheme=entry.scheme,
                timing_cache=_existing(
                    timing_cache or artifact.path.with_name(f"{name}.timing.cache")
                ),
            )
    return EngineResult(device, f"{path}/{stored.path}", sidecar, artifact.layers)


def options_for(
    device: Target,
    *,
    batch: ShapeRange | None = None,
    shapes: Mapping[str, InputShapes] | None = None,
    float_precision: Precision | None = None,
    workspace_mb: int | None = None,
    **others: Any,
) -> BuildOptions:
    """What ``build_engine`` hands to the builder: the target's choice where none was made.

    Raises:
        UsageError: a value is out of range, or only for TensorRT.
        UnavailableError: the target has no such option.
    """
    on_device = device.memory_mb if device.builds == "on-device" else None
    options = BuildOptions(
        batch=batch or DEFAULT_BATCH,
        shapes=shapes or {},
        float_precision=float_precision or device.float_precision,
        workspace_mb=on_device // 4 if workspace_mb is None and on_device else workspace_mb,
        tactic_memory_mb=on_device // 2 if on_device else None,
        **others,
    )
    _check(device, get_backend(device.backend), options)
    return options


def _to_file(
    device: Target, machine: Machine, graph: Path, file: Path, options: BuildOptions
) -> EngineResult:
    artifact = machine.build(device.backend, graph, file, options)
    sidecar = sidecar_of(device, machine.versions(), artifact, options.float_precision)
    write_json(file.with_name(f"{file.name}.json"), sidecar)
    return EngineResult(device, str(file), sidecar, artifact.layers)


def sidecar_of(
    device: Target, packages: dict[str, str], artifact: Artifact, wanted: Precision | None
) -> dict[str, Any]:
    """What stands beside an engine: its build's ``meta``, its target, versions and layers."""
    used = sorted({layer.precision for layer in artifact.layers} & set(_FLOAT))
    return {
        **artifact.meta,
        "target": device.reference,
        "scheme": device.scheme,
        "float_precision": {"wanted": (wanted or device.float_precision).value, "used": used},
        "packages": packages,
        "layers": [{**asdict(layer), "nodes": list(layer.nodes)} for layer in artifact.layers],
    }


def graph_for(bundle: Bundle, device: Target) -> ArtifactEntry:
    """The graph of the target's scheme; one whose accuracy was never proven comes last.

    Raises:
        InputError: there is none.
    """
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


def batch_of(onnx: Path) -> ShapeRange:
    """The batch that the file is fixed to, else the default.

    Raises:
        InputError: there is no such file, or it is no whole ONNX file.
    """
    if not onnx.is_file():
        raise InputError(f"No file at {onnx}.")
    shape = read_onnx(onnx).inputs[0].shape
    size = shape[0] if shape else None
    return ShapeRange(size, size, size) if isinstance(size, int) else DEFAULT_BATCH


def _beside(onnx: Path, device: Target, backend: Backend) -> Path:
    return onnx.with_name(f"{onnx.stem}.{device.name}{backend.artifact_suffix}")


def _existing(path: str | Path | None) -> Path | None:
    return Path(path) if path is not None and Path(path).is_file() else None


def _check(device: Target, backend: Backend, options: BuildOptions) -> None:
    """Refuse options that the target or its backend does not have."""
    usual = BuildOptions()
    asked = [name for name in _FOR_TENSORRT if getattr(options, name) != getattr(usual, name)]
    if asked and not isinstance(backend, TensorRTFamily):
        names = ", ".join(f"--{name.replace('_', '-')}" for name in asked)
        raise UsageError(f"{names}: for TensorRT; target '{device.name}' runs {backend.name}.")
    if options.dla_core is not None and options.dla_core >= device.dla_cores:
        raise UnavailableError(
            f"Target '{device.reference}' has {device.dla_cores} DLA cores, asked for core "
            f"{options.dla_core}; they count from 0.",
            hint="Leave --dla-core out: the engine then runs on the GPU.",
        )
    if options.hardware_compatible and device.jetpacks:
        raise UnavailableError(
            f"An engine for every GPU from Ampere on cannot be built for '{device.reference}': "
            "TensorRT does not support that on a Jetson.",
            hint="Leave --hardware-compatible out.",
        )


def _of_source(result: EngineResult, source: Path) -> EngineResult:
    """The same with a sidecar that names the file converted, not the float16 form of it."""
    sidecar = {**result.sidecar, "onnx_sha256": sha256_file(source), "converted": "fp16"}
    file = Path(result.place)
    write_json(file.with_name(f"{file.name}.json"), sidecar)
    return replace(result, sidecar=sidecar)
