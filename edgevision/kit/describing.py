"""What a result says of its engine, put together from trtexec's logs and the device's files."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgevision.backends._trt_layers import layers_from_inspector
from edgevision.backends._trt_log import FOR_CPU, Log
from edgevision.backends._trt_runner import check_header
from edgevision.backends.base import Artifact
from edgevision.backends.onnx_file import OnnxFile
from edgevision.backends.tensorrt import TensorRTBackend
from edgevision.devices.jetson import Jetson, read_jetson
from edgevision.devices.local import jetson_facts
from edgevision.devices.sensors import find_sensors
from edgevision.errors import InputError, ModelError
from edgevision.files import sha256_file
from edgevision.kit import contents
from edgevision.kit.contents import Kit, parse_json
from edgevision.kit.times import Times, read_times
from edgevision.kit.trtexec import FLAGS
from edgevision.pipeline.engine import sidecar_of
from edgevision.types import LayerInfo

_FACT = re.compile(r"([a-z_0-9]{1,40}) (\S.*)")
_VERSION = re.compile(r"TensorRT version: (\d{1,3}(?:\.\d{1,3}){1,3})\s*$", re.M)
_CAPABILITY = re.compile(r"Compute Capability: (\d{1,3})\.(\d{1,2})\s*$", re.M)
_SELECTED = re.compile(r"Selected Device: (\S.{0,100}?)\s*$", re.M)
_MODE = re.compile(r"NV Power Mode: (\S{1,64})\s+(\d{1,4})\b")
_PACKAGE = re.compile(r"ii\s+(\S{1,100}) (\S{1,100})")
_ON_GPU = re.compile(r"\[GpuLayer\] [A-Z_0-9]+: (\S.*?)\s*$", re.M)  # where a DLA has the others
# Options that build.sh gives by itself.
_OWN = frozenset(
    (
        *("--onnx", "--saveEngine", "--timingCacheFile", "--profilingVerbosity"),
        *("--exportLayerInfo", "--skipInference", "--buildOnly", "--stronglyTyped"),
    )
)


@dataclass(frozen=True)
class Described:
    """An engine's sidecar, its layers, its times, and what is other than the kit was made for."""

    sidecar: dict[str, Any]
    layers: tuple[LayerInfo, ...]
    times: Times
    notices: tuple[str, ...]


def describe(folder: Path, kit: Kit, file: OnnxFile | None) -> Described:
    """Read the result in ``folder``, whose hashes were checked.

    Args:
        kit: of the result.
        file: the graph, if it is at hand; with it, matrix layers carry ONNX's operator.

    Raises:
        InputError: it is of another kit, board or TensorRT, or of a form that is unknown.
        ModelError: trtexec clipped uint8 values.
    """
    facts = _facts(_text(folder, contents.FACTS))
    is_typed = facts.get("typed") == "yes"
    graph = _check_origin(folder, kit, facts, is_typed=is_typed)
    flags = _check_options(_text(folder, contents.BUILD_ARGS).splitlines(), kit, graph, is_typed)
    log = _text(folder, contents.BUILD_LOG)
    told = Log()
    for line in log.splitlines():
        told.add(False, line)
    if told.clips_uint8:
        raise ModelError(
            f"'{kit.source.path}' has uint8 Q/DQ, which trtexec read as int8: every value above "
            "127 was clipped.",
            hint=FOR_CPU,
        )
    engine = folder / contents.ENGINE
    with engine.open("rb") as stream:
        version = check_header(stream.read(64), TensorRTBackend.magic, contents.ENGINE)
    said = _VERSION.search(log)
    if said is not None and not f"{version}.".startswith(f"{said[1]}."):
        raise InputError(
            f"The engine is of TensorRT {version}, the log of {said[1]}: they are of two builds."
        )
    jetson = read_jetson(folder / contents.DEVICE)
    notices = _check_board(kit, jetson)
    layers = _layers(_text(folder, contents.LAYERS), file)
    times = read_times(parse_json(_bytes(folder, contents.TIMES), contents.TIMES), kit.warm_up_ms)
    asked = kit.asked.model_dump(mode="json", exclude_unset=True)
    meta = {
        "backend": kit.target.backend,
        "version": version,
        "compute_capabilities": _capabilities(log, kit),
        "flags": flags,
        **asked,
        **({"dla_fallback": _ON_GPU.findall(log)} if "dla_core" in asked else {}),
        "build_seconds": max(0.0, float(_number(facts, "build_seconds"))),
        "onnx_sha256": kit.source.sha256,
        "sha256": sha256_file(engine),
    }
    artifact = Artifact(kit.target.backend, engine, meta, layers)
    packages = dict(_PACKAGE.findall(_text(folder, contents.PACKAGES)))
    sidecar = sidecar_of(kit.target, packages, artifact, kit.float_precision)
    if graph != kit.graphs.flagged:
        sidecar["converted"] = "fp16"
    sidecar["device"] = _device(folder, jetson, log)
    sidecar["trtexec"] = {
        "measured_at": facts.get("measured_at", "")[:40],
        "queries": times.queries,
        "warm_up_ms": kit.warm_up_ms,
        "seconds": kit.seconds,
        "metrics": {name: asdict(metric) for name, metric in times.metrics.items()},
    }
    return Described(sidecar, layers, times, notices)


def _check_origin(folder: Path, kit: Kit, facts: dict[str, str], *, is_typed: bool) -> str:
    """The name of the graph that was built, which must be the kit's own."""
    if facts.get("kit_sha256") != sha256_file(folder / contents.KIT):
        raise InputError(f"The result's {contents.KIT} is not that of the kit it was built from.")
    graph = kit.graphs.typed if is_typed else kit.graphs.flagged
    known = kit.files.get(graph or "")
    if graph is None or known is None or facts.get("graph") != graph:
        raise InputError(f"The result is of no graph of its kit: {facts.get('graph')!r:.100}.")
    if facts.get("graph_sha256") != known.sha256:
        raise InputError(
            f"The engine was built from another '{graph}' than the kit's: sha256 expected "
            f"{known.sha256}, found {facts.get('graph_sha256')!s:.70}."
        )
    return graph


def _check_options(args: list[str], kit: Kit, graph: str, is_typed: bool) -> list[str]:
    """TensorRT's names of the flags that were set; the options must be those of the kit."""
    wanted = [f"--onnx={graph}", *kit.trtexec.build, *([] if is_typed else kit.trtexec.flagged)]
    others = [arg for arg in args if arg not in wanted and arg.partition("=")[0] not in _OWN]
    lacking = [option for option in wanted if option not in args]
    if others or lacking:
        which = f"{lacking[0]} is missing" if lacking else f"{others[0][:100]} is not of the kit"
        raise InputError(f"The engine was built with other options than the kit's: {which}.")
    flags = [FLAGS[arg] for arg in args if arg in FLAGS]
    if is_typed and "STRONGLY_TYPED" not in flags:  # since 11 nothing has to say so
        flags.append("STRONGLY_TYPED")
    return sorted(flags)


def _check_board(kit: Kit, jetson: Jetson | None) -> tuple[str, ...]:
    """What is other than the target; a board of another module is refused."""
    model, jetpack = kit.target.device_model, kit.target.jetpack
    if model is None:
        return ()
    if jetson is None:
        return (f"The device's files do not tell whether it is a {model}.",)
    if not kit.target.is_of(jetson.name):
        raise InputError(
            f"The kit is for '{kit.target.reference}', the engine was built on: {jetson.name}.",
            hint="Make a kit for that board, see `edgevision targets`.",
        )
    if jetpack is not None and jetson.jetpacks and jetpack.version not in jetson.jetpacks:
        return (f"The kit is for JetPack {jetpack.version}, the device has {jetson.release}.",)
    return ()


def _capabilities(log: str, kit: Kit) -> list[str]:
    """SM names that the engine runs on: the device's own."""
    found, known = _CAPABILITY.search(log), list(kit.target.compute_capabilities)
    if found is None:
        return known
    here = found[1] + found[2]
    if known and here not in known:
        raise InputError(
            f"The kit is for '{kit.target.reference}' (compute capability {', '.join(known)}), "
            f"the engine was built on a GPU of {here}."
        )
    return [here]


def _layers(text: str, file: OnnxFile | None) -> tuple[LayerInfo, ...]:
    try:
        return layers_from_inspector(text, file)
    except (AttributeError, TypeError, RecursionError) as error:
        raise InputError(f"'{contents.LAYERS}' is no report of layers: {text[:100]!r}") from error


def _device(folder: Path, jetson: Jetson | None, log: str) -> dict[str, Any]:
    """What the board told of itself, right after measuring."""
    selected = _SELECTED.search(log)
    told: dict[str, Any] = {"gpu": selected[1] if selected else None}
    if jetson is not None:
        told.update(jetson_facts(jetson, find_sensors(folder / contents.DEVICE)))
    mode = _MODE.search(_text(folder, contents.NVPMODEL))
    if mode is not None and told.get("power_mode") is None:
        told["power_mode"] = f"{mode[1]} (mode {mode[2]})"
    return told


def _facts(text: str) -> dict[str, str]:
    lines = (_FACT.fullmatch(line) for line in text.splitlines())
    return {found[1]: found[2] for found in lines if found}


def _number(facts: dict[str, str], name: str) -> int:
    text = facts.get(name, "")
    if not re.fullmatch(r"-?\d{1,12}", text):
        raise InputError(f"The result's {contents.FACTS} has no number '{name}': {text[:50]!r}.")
    return int(text)


def _text(folder: Path, name: str) -> str:
    return _bytes(folder, name).decode("utf-8", "replace")


def _bytes(folder: Path, name: str) -> bytes:
    path = folder / name
    if not path.is_file():
        raise InputError(f"The result lacks '{name}'.")
    return path.read_bytes()
