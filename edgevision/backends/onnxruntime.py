"""ONNX Runtime on the CPU: the artifact is the ONNX file itself, checked and copied."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevision.backends.base import Arrays, Artifact, Backend, BuildOptions, Runner, check_batch
from edgevision.backends.onnx_file import read_onnx
from edgevision.errors import InputError, ModelError
from edgevision.files import write_atomic
from edgevision.types import Availability, LayerInfo, TensorSpec

if TYPE_CHECKING:
    import numpy.typing as npt

_DTYPES = {
    "float": "float32",
    "double": "float64",
    "float16": "float16",
    "int8": "int8",
    "uint8": "uint8",
    "int16": "int16",
    "uint16": "uint16",
    "int32": "int32",
    "uint32": "uint32",
    "int64": "int64",
    "uint64": "uint64",
    "bool": "bool",
}
_PRECISIONS = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "uint8": "int8"}
_PROFILED_RUNS = 8


class OnnxRuntimeBackend(Backend):
    """Builds and runs with ``CPUExecutionProvider``, all graph optimizations on."""

    name = "onnxruntime"
    artifact_suffix = ".onnx"
    times_layers = True
    install = "Install it with: pip install edgevision"

    def is_available(self) -> Availability:
        try:
            import onnxruntime
        except ImportError as error:
            return Availability(False, f"onnxruntime cannot be imported: {error}")
        return Availability(True, f"onnxruntime {onnxruntime.__version__}")

    def _build_impl(self, source: Path, output: Path, options: BuildOptions) -> Artifact:
        import onnxruntime

        file = read_onnx(source)
        session = _session(source, None)
        check_batch(_specs(session.get_inputs(), source), options.batch)
        write_atomic(output, file.data)
        meta = {
            "backend": self.name,
            "version": onnxruntime.__version__,
            "onnx_sha256": file.sha256,
            "sha256": file.sha256,
        }
        return Artifact(self.name, output, meta)

    def _open_impl(self, artifact: Artifact, threads: int | None) -> Runner:
        return OnnxRuntimeRunner(_session(artifact.path, threads), artifact.path)

    def _layer_report_impl(self, artifact: Artifact) -> tuple[LayerInfo, ...]:
        """Read from ONNX Runtime's own profile of a few runs on zeros with one image.

        The profile holds each node left after its graph optimizations, with the types that went
        in. A node counts as the type of its first input: a Conv that stayed in float between Q/DQ
        nodes says fp32. ``time_ms`` is the median over the runs.
        """
        with tempfile.TemporaryDirectory() as folder:
            events = _profile(artifact.path, Path(folder))
        times: dict[str, list[float]] = {}
        nodes: dict[str, tuple[str, str]] = {}
        for event in events:
            name, kind, _ = event["name"].rpartition("_kernel_time")
            if event.get("cat") != "Node" or not kind:
                continue
            args = event["args"]
            types = args.get("input_type_shape") or args.get("output_type_shape") or [{"": []}]
            first = next(iter(types[0]), "")
            nodes[name] = (args["op_name"], _PRECISIONS.get(first, first or "none"))
            times.setdefault(name, []).append(event["dur"] / 1000)
        return tuple(
            LayerInfo(name, operator, precision, median(times[name]))
            for name, (operator, precision) in nodes.items()
        )


class OnnxRuntimeRunner(Runner):
    """A session on the file ``path``. Outputs belong to the caller; forks share the session."""

    def __init__(self, session: Any, path: Path) -> None:
        super().__init__(_specs(session.get_inputs(), path), _specs(session.get_outputs(), path))
        self._output_names = [spec.name for spec in self.output_specs]
        self._session, self._path = session, path
        self._errors = _sdk_errors()

    def _infer_impl(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        try:
            values = self._session.run(self._output_names, inputs)
        except self._errors as error:
            raise InputError(f"ONNX Runtime cannot run these inputs: {_reason(error)}") from error
        return {name: values[index] for index, name in enumerate(self._output_names)}

    def _fork_impl(self) -> Runner:
        return OnnxRuntimeRunner(self._session, self._path)

    def _close_impl(self) -> None:
        self._session = None


def _session(path: Path, threads: int | None, profile: Path | None = None) -> Any:
    import onnxruntime

    read_onnx(path)  # refuses weights in other files, which the SDK would go and read
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4  # errors are raised; nothing is printed beside
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    # Idle workers would spin on for milliseconds, on the cores that the app, or the other side of
    # a comparison, needs.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except _sdk_errors() as error:
        raise ModelError(f"ONNX Runtime cannot load '{path.name}': {_reason(error)}") from error


def _profile(path: Path, folder: Path) -> list[dict[str, Any]]:
    session = _session(path, None, folder / "profile")
    feeds = {
        spec.name: np.zeros([n if isinstance(n, int) else 1 for n in spec.shape], spec.dtype)
        for spec in _specs(session.get_inputs(), path)
    }
    try:
        for _ in range(_PROFILED_RUNS):
            session.run(None, feeds)
    except _sdk_errors() as error:
        raise ModelError(
            f"ONNX Runtime cannot run '{path.name}' with every free axis at 1: {_reason(error)}"
        ) from error
    finally:
        written = Path(session.end_profiling())
    events: list[dict[str, Any]] = json.loads(written.read_text(encoding="utf-8"))
    return events


def _specs(values: list[Any], path: Path) -> tuple[TensorSpec, ...]:
    specs = []
    for value in values:
        kind = str(value.type)
        dtype = _DTYPES.get(kind.partition("tensor(")[2].rstrip(")"))
        if dtype is None:
            raise ModelError(f"'{path.name}': '{value.name}' is of type {kind}, tensors only.")
        shape = tuple(
            n if isinstance(n, int) else (n or f"axis{axis}") for axis, n in enumerate(value.shape)
        )
        specs.append(TensorSpec(value.name, shape, dtype))
    return tuple(specs)


def _sdk_errors() -> tuple[type[Exception], ...]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = (
        "Fail",
        "InvalidArgument",
        "NoSuchFile",
        "NoModel",
        "EngineError",
        "RuntimeException",
        "InvalidProtobuf",
        "ModelLoaded",
        "NotImplemented",
        "InvalidGraph",
        "EPFail",
    )
    return tuple(getattr(state, name) for name in names if hasattr(state, name))


def _reason(error: Exception) -> str:
    """The message without ``[ONNXRuntimeError] : 7 : INVALID_PROTOBUF :`` and on one line."""
    text = " ".join(str(error).split())
    if text.startswith("[ONNXRuntimeError]"):
        text = text.split(" : ", 3)[-1]
    return text
