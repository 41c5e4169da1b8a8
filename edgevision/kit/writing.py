"""Writes a kit: a folder from which a board that nobody reaches builds and measures an engine."""

from __future__ import annotations

import shlex
import shutil
from dataclasses import replace
from importlib import resources
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory
from typing import Any

import edgevision
from edgevision.backends._trt_build import check_opset
from edgevision.backends._trt_common import asked_facts
from edgevision.backends._trt_profiles import profile_shapes
from edgevision.backends.base import BuildOptions, check_batch
from edgevision.backends.onnx_file import OnnxFile, read_onnx
from edgevision.backends.shapes import InputShapes
from edgevision.bundle import open_bundle
from edgevision.errors import InputError, UnavailableError, UsageError
from edgevision.files import files_of, publish_folder, sha256_bytes, sha256_file, write_json
from edgevision.kit.contents import (
    GRAPH,
    HALF_GRAPH,
    KIT,
    OPTIONS,
    README,
    RESULT,
    SCHEMA_VERSION,
    SCRIPT,
    SUMS,
    Asked,
    Graphs,
    Kit,
    KitFile,
    KitOptions,
    KitSource,
)
from edgevision.kit.trtexec import trtexec_options
from edgevision.pipeline.engine import AS_PROVEN, batch_of, graph_for, options_for
from edgevision.pipeline.half_engine import in_half
from edgevision.targets import Target, load_target
from edgevision.types import Precision

# Option → the TensorRT that first has it, as docs/engines.md lists them.
_SINCE = {
    "builder_level": (8, 6),
    "version_compatible": (8, 6),
    "hardware_compatible": (8, 6),
    "weight_streaming": (10, 0),
}

WARM_UP_MS = 1000
SECONDS = 10


def write_kit(source: str | Path, target: str, folder: str | Path, **choices: Any) -> Kit:
    """Write the folder that builds and measures the engine of ``source`` on the board ``target``.

    Where TensorRT takes types from the graph it builds the float16 form of an ONNX file, else the
    file itself with flags; the board decides, so the kit holds both where they differ.

    Args:
        source: a bundle (folder or zip), from which the graph of the target's quantization scheme
            is taken, or an ONNX file.
        target: name as ``load_target`` takes it; of the backend ``tensorrt``.
        folder: to write; there must be nothing at it, or an empty folder, or a kit, which is
            replaced.
        choices: ``batch``, ``shapes``, ``float_precision``, ``workspace_mb``, ``builder_level``,
            ``dla_core``, ``sparsity``, ``version_compatible``, ``hardware_compatible``, ``refit``
            and ``weight_streaming`` as in ``build_engine``.

    Raises:
        UsageError: the target needs no kit, or an option does not fit.
        UnavailableError: the target has no such option.
        InputError: ``source`` or ``folder`` cannot be used, or the bundle has no graph for it.
        ModelError: TensorRT of the target's JetPack does not read the graph, or the shapes do not
            fit it.
    """
    device = load_target(target)
    if device.backend != "tensorrt":
        raise UsageError(
            f"A kit is for boards that build with TensorRT; target '{device.name}' runs "
            f"{device.backend}.",
            hint="Leave --kit out.",
        )
    options = replace(options_for(device, **choices), tactic_memory_mb=None)
    path, place = Path(source), Path(folder).absolute()
    _check_place(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=place.parent, prefix=f".{place.name}.") as temporary:
        work = Path(temporary) / "kit"
        work.mkdir()
        if path.suffix == ".onnx":
            if choices.get("batch") is None and not options.shapes:
                options = replace(options, batch=batch_of(path))
            is_asked = choices.get("float_precision") is not None
            origin, graphs = _from_file(path, work, device, options, is_asked=is_asked)
        else:
            if choices.get("float_precision") is not None:
                raise UsageError(AS_PROVEN)
            origin, graphs = _from_bundle(path, work, device)
        file = replace(read_onnx(work / graphs.flagged), path=Path(origin.path))
        if device.jetpack is not None:
            _check_version(options, device.jetpack.tensorrt)
            check_opset(file, device.jetpack.tensorrt, is_rtx=False)
        told = trtexec_options(file, _shapes(file, options), options)
        (work / OPTIONS).write_text(_lines(graphs, told), encoding="utf-8")
        (work / SCRIPT).write_bytes(_data(SCRIPT))
        (work / README).write_text(_readme(device, origin), encoding="utf-8")
        kit = Kit(
            schema_version=SCHEMA_VERSION,
            edgevision=edgevision.__version__,
            target=device,
            float_precision=options.float_precision or device.float_precision,
            source=origin,
            graphs=graphs,
            asked=Asked(**asked_facts(file, options)),
            trtexec=told,
            warm_up_ms=WARM_UP_MS,
            seconds=SECONDS,
            files={name: KitFile(**facts) for name, facts in files_of(work).items()},
        )
        write_json(work / KIT, kit.model_dump(mode="json", exclude_unset=True))
        sums = "".join(f"{facts['sha256']}  {name}\n" for name, facts in files_of(work).items())
        (work / SUMS).write_text(sums, encoding="ascii")
        publish_folder(work, place)
    return kit


def _check_version(options: BuildOptions, version: str) -> None:
    """Refuse what the TensorRT on the board has no name for; the board's own says so too late."""
    here = tuple(int(number) for number in version.split(".")[:2])
    for name, since in _SINCE.items():
        if getattr(options, name) not in (None, False) and here < since:
            flag = "--" + name.replace("_", "-")
            raise UnavailableError(
                f"{flag} takes TensorRT {since[0]}.{since[1]}, the board's JetPack has {version}.",
                hint=f"Leave {flag} out.",
            )


def _check_place(place: Path) -> None:
    """Only a kit is replaced, and one without a result."""
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return
    if not (place / KIT).is_file():
        raise InputError(f"{place} is there and is no kit.", hint="Name a new folder.")
    if (place / RESULT).exists() or (place / "work").exists():
        raise InputError(
            f"The kit in {place} was run: what it built would be lost.",
            hint="Name a new folder, or remove that one.",
        )


def _from_file(
    path: Path, work: Path, device: Target, options: BuildOptions, *, is_asked: bool
) -> tuple[KitSource, Graphs]:
    """The file as it is for TensorRT 8, and its float16 form for those that want one."""
    shutil.copyfile(path, work / GRAPH)
    origin = KitSource(path=path.name, sha256=sha256_file(work / GRAPH))
    if options.float_precision is not Precision.FP16:
        return origin, Graphs(typed=GRAPH, flagged=GRAPH)
    if device.jetpack is not None and device.jetpack.tensorrt.startswith("8."):
        return origin, Graphs(typed=None, flagged=GRAPH)
    with TemporaryDirectory() as folder:
        half = in_half(path, Path(folder), is_asked=is_asked)
        if half == path:
            return origin, Graphs(typed=GRAPH, flagged=GRAPH)
        shutil.copyfile(half, work / HALF_GRAPH)
    return origin, Graphs(typed=HALF_GRAPH, flagged=GRAPH)


def _from_bundle(path: Path, work: Path, device: Target) -> tuple[KitSource, Graphs]:
    """The graph whose accuracy was proven, as it is."""
    with open_bundle(path) as bundle:
        entry = graph_for(bundle, device)
        shutil.copyfile(bundle.path(entry), work / GRAPH)
        manifest = sha256_bytes(bundle.manifest.to_bytes())
    origin = KitSource(path=entry.path, sha256=entry.sha256, bundle=manifest)
    return origin, Graphs(typed=GRAPH, flagged=GRAPH)


def _shapes(file: OnnxFile, options: BuildOptions) -> dict[str, InputShapes]:
    """Shapes of the inputs with free axes; the same is refused as while building."""
    check_batch(
        tuple(spec for spec in file.inputs if spec.name not in options.shapes), options.batch
    )
    inputs = {
        spec.name: tuple(size if isinstance(size, int) else -1 for size in spec.shape)
        for spec in file.inputs
    }
    return profile_shapes(inputs, options)


def _lines(graphs: Graphs, told: KitOptions) -> str:
    """What ``build.sh`` reads, a word and a value a line."""
    lines = [
        *([] if graphs.typed is None else [f"typed-graph {graphs.typed}"]),
        f"flagged-graph {graphs.flagged}",
        f"warm-up {WARM_UP_MS}",
        f"seconds {SECONDS}",
    ]
    for kind in ("build", "flagged", "measure"):
        lines += [f"{kind} {option}" for option in getattr(told, kind)]
    return "\n".join(lines) + "\n"


def _readme(device: Target, origin: KitSource) -> str:
    return Template(_data(README).decode()).substitute(
        title=device.title,
        target=device.reference,
        source=origin.path,
        destination="--bundle BUNDLE"
        if origin.bundle
        else f"--out {shlex.quote(f'{Path(origin.path).stem}.engine')}",
    )


def _data(name: str) -> bytes:
    return resources.files(__package__).joinpath(name).read_bytes()
