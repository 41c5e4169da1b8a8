"""The two interfaces behind every compiler and runtime. Checks live here, work in ``_impl``."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from edgevision.backends.shapes import InputShapes
from edgevision.errors import InputError, ModelError, UnavailableError, UsageError
from edgevision.types import Availability, LayerInfo, Precision, TensorSpec

if TYPE_CHECKING:
    from typing import TypeAlias  # novermin

    import numpy.typing as npt

Arrays: TypeAlias = "Mapping[str, npt.NDArray[Any]]"


@dataclass(frozen=True)
class ShapeRange:
    """Batch sizes of one optimization profile: smallest, the one tuned for, largest."""

    min: int = 1
    opt: int = 1
    max: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise UsageError(
                f"batch sizes must satisfy 1 <= min <= opt <= max, "
                f"got {self.min}, {self.opt}, {self.max}"
            )


@dataclass(frozen=True)
class BuildOptions:
    """What a build may depend on beside the source file.

    A builder refuses what it has no name for; all but ``batch`` is for TensorRT alone.

    Attributes:
        batch: sizes that the artifact must accept.
        shapes: by input: all axes of those whose free axes are not the batch alone.
        compute_capabilities: SM names to build for, e.g. ``("86", "89")``; empty: this machine's.
        float_precision: of what is not INT8. TensorRT 8 is told; later versions take it from the
            graph. None: fp16 beside INT8, fp32 in a float graph.
        workspace_mb: limit of the builder's scratch memory, None for the backend's default.
        tactic_memory_mb: limit of the memory for trying tactics, where the builder has one.
        builder_level: 0 (fastest build) to 5 (longest search), None for the builder's own.
        timing_cache: file read and rewritten by builders that have one.
        dla_core: runs what it can on that core, the rest on the GPU; the batch must be fixed.
        sparsity: use kernels for weights with two zeros in every four (2:4).
        version_compatible: the engine runs on later minor versions of TensorRT too.
        hardware_compatible: it runs on every GPU from Ampere on, at some cost in speed.
        refit: its weights can be exchanged without building again.
        weight_streaming: weights may stay in host memory; for networks larger than the GPU's.
        progress: called with (phase, done, total) while building.

    Raises:
        UsageError: ``builder_level`` or ``dla_core`` is out of range.
    """

    batch: ShapeRange = field(default_factory=ShapeRange)
    shapes: Mapping[str, InputShapes] = field(default_factory=dict)
    compute_capabilities: tuple[str, ...] = ()
    float_precision: Precision | None = None
    workspace_mb: int | None = None
    tactic_memory_mb: int | None = None
    builder_level: int | None = None
    timing_cache: Path | None = None
    dla_core: int | None = None
    sparsity: bool = False
    version_compatible: bool = False
    hardware_compatible: bool = False
    refit: bool = False
    weight_streaming: bool = False
    progress: Callable[[str, int, int], None] | None = None

    def __post_init__(self) -> None:
        if self.builder_level is not None and not 0 <= self.builder_level <= 5:
            raise UsageError(f"the builder level must be 0 to 5, got {self.builder_level}")
        if self.dla_core is not None and self.dla_core < 0:
            raise UsageError(f"the DLA core must be 0 or more, got {self.dla_core}")

    def to_json(self) -> dict[str, Any]:
        """As JSON values, without what belongs to one process: timing cache and progress."""
        values = asdict(replace(self, progress=None, timing_cache=None))
        precision = self.float_precision
        return {**values, "float_precision": precision.value if precision is not None else None}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> BuildOptions:
        """What ``to_json`` gave."""
        shapes = {
            name: InputShapes(**{at: tuple(shape) for at, shape in told.items()})
            for name, told in values["shapes"].items()
        }
        precision = values["float_precision"]
        return cls(
            **{
                **values,
                "batch": ShapeRange(**values["batch"]),
                "shapes": shapes,
                "compute_capabilities": tuple(values["compute_capabilities"]),
                "float_precision": Precision(precision) if precision is not None else None,
            }
        )


@dataclass(frozen=True)
class Artifact:
    """What a backend built: a file and its metadata (kept in a sidecar, never inside the file).

    ``meta`` holds plain JSON values: backend, versions, flags, compute capabilities, onnx_sha256.
    ``layers`` is the layer report taken at build time; empty where only an opened session has one.
    """

    backend: str
    path: Path
    meta: dict[str, Any] = field(default_factory=dict)
    layers: tuple[LayerInfo, ...] = ()


def check_batch(specs: tuple[TensorSpec, ...], batch: ShapeRange) -> None:
    """Refuse batch sizes that a graph with a fixed first axis cannot take.

    Raises:
        ModelError: an input's first axis is a number and ``batch`` asks for others.
    """
    for spec in specs:
        fixed = spec.shape[0] if spec.shape else None
        if isinstance(fixed, int) and (batch.min, batch.max) != (fixed, fixed):
            raise ModelError(
                f"Input {spec}: its batch is fixed, asked for {batch.min} to {batch.max}.",
                hint="Export the model with a dynamic batch, or ask for that batch size.",
            )


class Pending:
    """An inference under way.

    Args:
        wait: returns its outputs, or raises what went wrong.
    """

    def __init__(self, wait: Callable[[], dict[str, npt.NDArray[Any]]]) -> None:
        self._wait: Callable[[], dict[str, npt.NDArray[Any]]] | None = wait
        self._outputs: dict[str, npt.NDArray[Any]] | None = None
        self._error: Exception | None = None

    def result(self) -> dict[str, npt.NDArray[Any]]:
        """Wait for the outputs; a second call gives the same ones, or the same error.

        Raises:
            InputError: the inference failed.
        """
        if self._wait is not None:
            try:
                self._outputs = self._wait()
            except Exception as error:  # noqa: BLE001 - kept for whoever asks again
                self._error = error
            self._wait = None
        if self._error is not None:
            raise self._error
        assert self._outputs is not None
        return self._outputs

    @property
    def is_awaited(self) -> bool:
        """Whether nobody has asked for the result yet."""
        return self._wait is not None


class Runner(ABC):
    """An opened artifact. A context manager; for one thread at a time, ``fork`` gives another.

    ``outputs_reused`` says whether the arrays from ``infer`` are overwritten by the next call
    (True) or belong to the caller (False).
    """

    outputs_reused: ClassVar[bool] = False

    def __init__(
        self, input_specs: tuple[TensorSpec, ...], output_specs: tuple[TensorSpec, ...]
    ) -> None:
        self.input_specs = input_specs
        self.output_specs = output_specs
        self._names = frozenset(spec.name for spec in input_specs)
        self._fits: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}  # last one that passed
        self._under_way: Callable[[], object] | None = None
        self._pending: Callable[[], Pending | None] = lambda: None
        self._worker: ThreadPoolExecutor | None = None
        self._closed = False

    def infer(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """Run once.

        Args:
            inputs: one array for each of ``input_specs``, by name; any memory layout, but one
                that is not C-contiguous is copied first.

        Returns:
            One array for each of ``output_specs``, by name.

        Raises:
            InputError: a name, shape or dtype does not fit; says expected and actual.
            UsageError: the runner was closed, or an ``infer_async`` is not over.
        """
        self._check(inputs)
        return self._infer_impl(inputs)

    def infer_async(self, inputs: Arrays) -> Pending:
        """Start to run once and come back; the caller prepares the next image meanwhile.

        One at a time: before the next call, ask for the result, or let go of it. Leave ``inputs``
        alone until then. Takes and raises what ``infer`` does.
        """
        self._check(inputs)
        self._under_way = self._start_impl(inputs)
        pending = Pending(self._under_way)
        self._pending = weakref.ref(pending)
        return pending

    def fork(self) -> Runner:
        """Another runner on what this one has loaded, for another thread; closed on its own.

        Weights are shared where the SDK can. What a runner needs to run, such as buffers, each has
        for itself.

        Raises:
            UsageError: this runner was closed, or it is one that cannot be shared.
        """
        if self._closed:
            raise UsageError("This runner was closed; open it again.")
        return self._fork_impl()

    def _check(self, inputs: Arrays) -> None:
        if self._closed:
            raise UsageError("This runner was closed; open it again to infer.")
        if self._under_way is not None:
            pending = self._pending()
            if pending is not None and pending.is_awaited:
                raise UsageError(
                    "An inference is under way: ask for its result first, or use a fork of the "
                    "runner."
                )
            self._finish()
        if inputs.keys() != self._names:
            raise InputError(f"Inputs expected: {sorted(self._names)}, given: {sorted(inputs)}.")
        for spec in self.input_specs:
            array = inputs[spec.name]
            if not isinstance(array, np.ndarray):
                raise InputError(f"Input '{spec.name}' must be a numpy array, got {type(array)}.")
            given = (array.shape, array.dtype)
            if self._fits.get(spec.name) != given:
                if not spec.accepts(array.shape, array.dtype.name):
                    text = f"{array.dtype}[{', '.join(map(str, array.shape))}]"
                    raise InputError(f"Input expected: {spec}, given: {text}.")
                self._fits[spec.name] = given

    def close(self) -> None:
        """Wait for what is under way and free everything; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._finish()
        if self._worker is not None:
            self._worker.shutdown()
        self._close_impl()

    def _finish(self) -> None:
        """Wait for what is under way; what goes wrong is told to whoever asks for the result."""
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            pending = self._pending()
            with suppress(Exception):
                (pending.result if pending is not None else under_way)()

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _start_impl(self, inputs: Arrays) -> Callable[[], dict[str, npt.NDArray[Any]]]:
        """Begin, for SDKs that only wait; returns what waits for the outputs."""
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, thread_name_prefix="edgevision-infer")
        return self._worker.submit(self._infer_impl, inputs).result

    def _fork_impl(self) -> Runner:
        raise UsageError("This runner cannot be shared: open the artifact once for each thread.")

    @abstractmethod
    def _infer_impl(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]: ...

    @abstractmethod
    def _close_impl(self) -> None: ...


class Backend(ABC):
    """One vendor SDK: builds an artifact from ONNX, opens it, reports its layers.

    The SDK is imported inside methods, so listing backends imports none.
    """

    name: ClassVar[str]
    artifact_suffix: ClassVar[str]  # of the file that ``build`` writes, e.g. ".engine"
    source: ClassVar[str] = "an ONNX file"  # what ``build`` takes, in words
    times_layers: ClassVar[bool] = False  # runs ONNX graphs whose kernels can be timed one by one
    install: ClassVar[str | None] = None  # how to get the SDK, the hint where it is missing

    @abstractmethod
    def is_available(self) -> Availability:
        """Whether building works here, with the version found or what is missing."""

    def can_run(self) -> Availability:
        """Whether opened artifacts run here; some SDKs build on machines that cannot run."""
        return self.is_available()

    def build(self, source: Path, output: Path, options: BuildOptions | None = None) -> Artifact:
        """Turn ``source`` into the file ``output``, written to a temporary name and renamed.

        Args:
            source: an ONNX file; for ``pytorch``, the weights of a checkpoint.
            output: the file to write; one that is there is replaced.
            options: what the build depends on beside ``source``.

        Raises:
            UnavailableError: the SDK is missing, or cannot build for what was asked.
            ModelError: the SDK refuses the graph; names the node and the reason.
            InputError: there is no file at ``source``.
            OSError: the file cannot be written; nothing is left behind.
        """
        self._require(self.is_available(), hint=self.install)
        if not source.is_file():
            raise InputError(f"No file at {source}; backend '{self.name}' builds {self.source}.")
        return self._build_impl(source, output, options or BuildOptions())

    def open(self, artifact: Artifact, *, threads: int | None = None) -> Runner:
        """Open a built artifact for inference. ``threads``: CPU threads, None for the SDK's own.

        Raises:
            UnavailableError: artifacts of this backend cannot run here.
            InputError: the file is missing or damaged.
            UsageError: ``threads`` is below 1.
        """
        if threads is not None and threads < 1:
            raise UsageError(f"threads must be at least 1, got {threads}.")
        self._require(self.can_run(), hint=None if self.is_available().ok else self.install)
        if not artifact.path.is_file():
            raise InputError(f"No artifact at {artifact.path}.")
        return self._open_impl(artifact, threads)

    def layer_report(self, artifact: Artifact) -> tuple[LayerInfo, ...]:
        """Every layer with the precision it runs in, in execution order."""
        return artifact.layers or self._layer_report_impl(artifact)

    def _require(self, availability: Availability, *, hint: str | None) -> None:
        if not availability.ok:
            raise UnavailableError(f"Backend '{self.name}': {availability.reason}.", hint=hint)

    @abstractmethod
    def _build_impl(self, source: Path, output: Path, options: BuildOptions) -> Artifact: ...

    @abstractmethod
    def _open_impl(self, artifact: Artifact, threads: int | None) -> Runner: ...

    @abstractmethod
    def _layer_report_impl(self, artifact: Artifact) -> tuple[LayerInfo, ...]: ...
