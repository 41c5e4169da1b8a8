"""OpenVINO on the CPU: the artifact is the ONNX file itself, checked and copied.

A graph without Q/DQ is computed in float32. By itself OpenVINO would take bfloat16 where the
processor has it, and the FP32 baseline would be none, neither of accuracy nor of time. What is
float in a graph with Q/DQ is computed as OpenVINO likes: that is what ships, and accuracy and time
are measured of it. See decision 15.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevision.backends.base import Arrays, Artifact, Backend, BuildOptions, Runner, check_batch
from edgevision.backends.onnx_file import OnnxFile, read_onnx
from edgevision.errors import InputError, ModelError
from edgevision.files import write_atomic
from edgevision.types import Availability, LayerInfo, TensorSpec

if TYPE_CHECKING:
    from typing import TypeAlias  # novermin

    import numpy.typing as npt

_DTYPES = {
    "f32": "float32",
    "f64": "float64",
    "f16": "float16",
    "i8": "int8",
    "u8": "uint8",
    "i16": "int16",
    "u16": "uint16",
    "i32": "int32",
    "u32": "uint32",
    "i64": "int64",
    "u64": "uint64",
    "boolean": "bool",
}
_PRECISIONS = {
    "f32": "fp32",
    "f16": "fp16",
    "bf16": "bf16",
    "u8": "int8",
    "i8": "int8",
    "i32": "int32",
    "i64": "int64",
    "boolean": "bool",
    "dynamic": "none",
}
_NOT_LAYERS = ("Const", "Input", "Output")
# What conversion adds to the name of the ONNX node that an operation comes from.
_ADDED = ("/WithoutBiases", "/Dequantization")
_TELEMETRY = "openvino_telemetry"
# A graph compiled for one shape is up to 1.5 times as fast as one with free axes, but takes up to
# a second to compile and memory for its weights. Shapes beyond these share one with free axes.
_OWN_SHAPES = 4
_TIMED = 24
_WARM = 4  # first runs allocate
_Shapes: TypeAlias = "tuple[tuple[int, ...], ...]"


class OpenVINOBackend(Backend):
    """Builds and runs with the plugin ``CPU``, for the lowest latency."""

    name = "openvino"
    artifact_suffix = ".onnx"
    times_layers = True
    install = "Install it with: pip install 'edgevision[openvino]'"

    def is_available(self) -> Availability:
        try:
            sdk = _openvino()
        except ImportError as error:
            return Availability(False, f"openvino cannot be imported: {error}")
        return Availability(True, f"openvino {_version(sdk)}")

    def _build_impl(self, source: Path, output: Path, options: BuildOptions) -> Artifact:
        file = read_onnx(source)
        network = _Network(file, None)
        check_batch(network.inputs, options.batch)
        compiled = network.compiled(network.smallest)
        write_atomic(output, file.data)
        meta = {
            "backend": self.name,
            "version": _version(_openvino()),
            "onnx_sha256": file.sha256,
            "sha256": file.sha256,
            "inference_precision": _PRECISIONS.get(
                compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name(), "none"
            ),
        }
        return Artifact(self.name, output, meta)

    def _open_impl(self, artifact: Artifact, threads: int | None) -> Runner:
        return OpenVINORunner(_Network(read_onnx(artifact.path), threads))

    def _layer_report_impl(self, artifact: Artifact) -> tuple[LayerInfo, ...]:
        return self.time_layers(artifact.path)

    def time_layers(
        self, path: Path, *, threads: int | None = None, beside_int8: bool = False
    ) -> tuple[LayerInfo, ...]:
        """The layers that OpenVINO executes, each with its time and the ONNX nodes it computes.

        Measured on zeros with every free axis at 1; ``time_ms`` is the mean of the faster half of
        some runs. A layer counts as the type that it computes in: a Conv that stayed in float
        between Q/DQ nodes says so. What runs in place, such as most reshapes, has no time.

        Args:
            path: an ONNX file.
            threads: of the CPU, None for OpenVINO's own choice.
            beside_int8: run a file without Q/DQ as the float part of one with them would be.

        Raises:
            ModelError: OpenVINO cannot load or run the file.
        """
        file = read_onnx(path)
        network = _Network(file, threads, timed=True, beside_int8=beside_int8)
        shapes = network.ones
        compiled = network.compiled(shapes)
        request = compiled.create_infer_request()
        feeds = {
            spec.name: np.zeros(shapes[index], spec.dtype)
            for index, spec in enumerate(network.inputs)
        }
        times: dict[str, list[float]] = {}
        for run in range(_WARM + _TIMED):
            try:
                request.infer(feeds)
            except RuntimeError as error:
                raise ModelError(
                    f"OpenVINO cannot run '{path.name}' with every free axis at 1: {_reason(error)}"
                ) from error
            for info in request.get_profiling_info() if run >= _WARM else ():
                if info.status.name == "EXECUTED":
                    milliseconds = info.real_time.total_seconds() * 1e3
                    times.setdefault(info.node_name, []).append(milliseconds)
        layers = []
        labels = _node_labels(file)
        for node in compiled.get_runtime_model().get_ordered_ops():
            facts = {key: _text(value) for key, value in node.get_rt_info().items()}
            if facts["layerType"] in _NOT_LAYERS:
                continue
            name, precision = node.get_friendly_name(), facts["runtimePrecision"]
            nodes = _nodes_of(facts["originalLayersNames"], labels)
            if name not in times and not nodes:
                continue  # done once for all, while compiling
            layers.append(
                LayerInfo(
                    name,
                    facts["layerType"],
                    _PRECISIONS.get(precision, precision),
                    _steady_mean(times[name]) if name in times else None,
                    nodes,
                )
            )
        return tuple(layers)


class OpenVINORunner(Runner):
    """A compiled network for each of the first few input shapes. Outputs belong to the caller.

    The smallest batch is compiled when it is opened, every other shape when it first comes. A fork
    compiles for itself: requests of one compiled network wait for each other.
    """

    def __init__(self, network: _Network) -> None:
        super().__init__(network.inputs, network.outputs)
        self._network: _Network | None = network
        self._places = network.places
        self._requests: dict[_Shapes | None, Any] = {}
        self._request(network.smallest)

    def _infer_impl(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        shapes = tuple(inputs[spec.name].shape for spec in self.input_specs)
        request = self._requests.get(shapes) or self._request_for(shapes)
        arrays = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        try:
            found = request.infer(arrays, share_inputs=True)  # outputs are copied
        except RuntimeError as error:
            raise InputError(f"OpenVINO cannot run these inputs: {_reason(error)}") from error
        return {
            spec.name: found[self._places[index]] for index, spec in enumerate(self.output_specs)
        }

    def _request_for(self, shapes: _Shapes) -> Any:
        if len(self._requests) < _OWN_SHAPES:
            return self._request(shapes)
        return self._requests.get(None) or self._request(None)

    def _request(self, shapes: _Shapes | None) -> Any:
        assert self._network is not None
        request = self._network.compiled(shapes).create_infer_request()
        self._requests[shapes] = request
        return request

    def _fork_impl(self) -> Runner:
        assert self._network is not None
        return OpenVINORunner(self._network)

    def _close_impl(self) -> None:
        self._requests.clear()
        self._network = None


class _Network:
    """An ONNX file as OpenVINO understood it, not compiled yet.

    ``places`` are those of the outputs among OpenVINO's.
    """

    def __init__(
        self,
        file: OnnxFile,  # one with weights in other files, which the SDK would read, is no OnnxFile
        threads: int | None,
        *,
        timed: bool = False,
        beside_int8: bool = False,
    ) -> None:
        self._name = file.path.name
        sdk = _openvino()
        try:
            # By name: left to itself OpenVINO tries every format it knows on a damaged file.
            frontend = sdk.frontend.FrontEndManager().load_by_framework("onnx")
            self._model = frontend.convert(frontend.load(str(file.path)))
            inputs = [self._model.input(spec.name) for spec in file.inputs]
        except _conversion_errors(sdk) as error:
            raise self._refused(error) from error
        outputs = self._model.outputs
        self.places = [_place(spec.name, outputs, self._name) for spec in file.outputs]
        self.inputs = _specs(inputs, file.inputs, self._name)
        self.outputs = _specs([outputs[i] for i in self.places], file.outputs, self._name)
        self._core = sdk.Core()
        self._config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            self._config["INFERENCE_NUM_THREADS"] = threads
        if timed:
            self._config["PERF_COUNT"] = True
        if not file.is_quantized and not beside_int8:
            self._config["INFERENCE_PRECISION_HINT"] = "f32"

    @property
    def ones(self) -> _Shapes:
        """Shapes of the inputs with every free axis at 1."""
        return tuple(tuple(n if isinstance(n, int) else 1 for n in s.shape) for s in self.inputs)

    @property
    def smallest(self) -> _Shapes | None:
        """Of a batch of one; None where other axes are free too, which may not be 1."""
        fixed = all(isinstance(n, int) for spec in self.inputs for n in spec.shape[1:])
        return self.ones if fixed else None

    def compiled(self, shapes: _Shapes | None) -> Any:
        """Compiled for inputs of ``shapes``, None to leave free axes free."""
        model = self._model
        try:
            if shapes is not None:
                model = model.clone()
                named = {spec.name: list(shapes[at]) for at, spec in enumerate(self.inputs)}
                model.reshape(named)
            return self._core.compile_model(model, "CPU", self._config)
        except RuntimeError as error:
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> ModelError:
        return ModelError(f"OpenVINO cannot load '{self._name}': {_reason(error)}")


def _openvino() -> Any:
    """The package, imported so that it sends nothing.

    Importing it tells its vendor so, unless the user has said no, and writes an identity into the
    home folder. It does without where the package for that cannot be imported. An app that
    imported it before has made its own choice.
    """
    if sys.modules.get("openvino") is None:
        hidden = {_TELEMETRY: sys.modules[_TELEMETRY]} if _TELEMETRY in sys.modules else {}
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # makes its import fail
        try:
            import openvino
        finally:
            del sys.modules[_TELEMETRY]
            sys.modules.update(hidden)
        return openvino
    return sys.modules["openvino"]


def _conversion_errors(sdk: Any) -> tuple[type[Exception], ...]:
    names = (
        "GeneralFailure",
        "InitializationFailure",
        "NotImplementedFailure",
        "OpConversionFailure",
        "OpValidationFailure",
    )
    return RuntimeError, *(getattr(sdk.frontend, n) for n in names if hasattr(sdk.frontend, n))


def _version(sdk: Any) -> str:
    """Without the build, e.g. ``2026.4.1``."""
    return str(sdk.__version__).partition("-")[0]


def _place(name: str, outputs: list[Any], file: str) -> int:
    for place, port in enumerate(outputs):
        if name in port.get_names():
            return place
    raise ModelError(f"OpenVINO made a network of '{file}' that has no output '{name}'.")


def _specs(ports: list[Any], told: tuple[TensorSpec, ...], file: str) -> tuple[TensorSpec, ...]:
    """Names, and those of free axes, from the file; types and fixed axes from OpenVINO."""
    specs = []
    for index, from_file in enumerate(told):
        port = ports[index]
        kind = port.get_element_type().get_type_name()
        if kind not in _DTYPES:
            raise ModelError(f"'{file}': '{from_file.name}' is of type {kind}, not supported.")
        if port.partial_shape.rank.is_dynamic:
            raise ModelError(f"'{file}': '{from_file.name}' has no fixed number of axes.")
        shape: list[int | str] = []
        for axis, length in enumerate(port.partial_shape):
            named = from_file.shape[axis] if axis < len(from_file.shape) else None
            free = named if isinstance(named, str) else f"axis{axis}"
            shape.append(free if length.is_dynamic else length.get_length())
        specs.append(TensorSpec(from_file.name, tuple(shape), _DTYPES[kind]))
    return tuple(specs)


def _node_labels(file: OnnxFile) -> dict[str, str]:
    """What OpenVINO may call a node, its name or that of a tensor it makes → its label."""
    labels: dict[str, str] = {}
    for node in file.nodes:
        label = node.name or next(iter(node.outputs), "")
        labels |= dict.fromkeys((label, *node.outputs), label)
    return labels


def _nodes_of(original: str, labels: Mapping[str, str]) -> tuple[str, ...]:
    """Labels of the ONNX nodes in a list of names with commas between."""
    found = []
    for name in original.split(","):
        stem = name
        for added in _ADDED:
            stem = stem.partition(added)[0]
        found += [labels[each] for each in (name, stem) if each in labels][:1]
    return tuple(dict.fromkeys(found))


def _text(value: Any) -> str:
    """What is inside the SDK's own wrapper, as text."""
    return str(getattr(value, "value", value))


def _steady_mean(values: list[float]) -> float:
    """Of the faster half, which other work disturbed least; each time is whole microseconds."""
    return fmean(sorted(values)[: (len(values) + 1) // 2])


def _reason(error: Exception) -> str:
    """The message on one line, without places in OpenVINO's source."""
    noise = (
        "Exception from ",
        "Check '",
        "FrontEnd API failed",
        "While validating node",
        "Summary:",
    )
    lines = [line.strip().lstrip("- ") for line in str(error).splitlines()]
    lines = [line.partition(": Check '")[0] for line in lines]
    kept = [line for line in lines if line and not line.startswith(noise)]
    return " ".join(kept) or " ".join(str(error).split())
