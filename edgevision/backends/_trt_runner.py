"""Running a plan with numpy and CUDA alone: no torch. Works with TensorRT 8.5 to 11 and RTX."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevision.backends._cuda import Buffer, Cuda
from edgevision.backends._trt_log import Log, make_logger
from edgevision.backends.base import Arrays, Runner
from edgevision.errors import InputError, ModelError, UnavailableError
from edgevision.types import TensorSpec

if TYPE_CHECKING:
    from typing import TypeAlias  # novermin

    import numpy.typing as npt

    # Logger, runtime, engine: the first two outlive the third.
    Owners: TypeAlias = tuple[Any, Any, Any]

_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}
_VERSION_AT = 24  # byte of the plan's header where the four numbers of the version stand


def check_header(plan: bytes, magic: bytes, name: str) -> str:
    """The TensorRT version that wrote ``plan``, e.g. "1.7.1.116".

    Raises:
        InputError: it is cut short or no plan of this kind.
    """
    if plan[:4] != magic or len(plan) < _VERSION_AT + 4:
        other = {b"ftrt": "TensorRT", b"vtrt": "TensorRT-RTX"}.get(plan[:4])
        found = f"a plan of {other}" if other else f"{len(plan)} bytes that begin {plan[:4]!r}"
        raise InputError(f"'{name}' is no plan of this backend (header {magic!r}): {found}.")
    return ".".join(str(number) for number in plan[_VERSION_AT : _VERSION_AT + 4])


def deserialize(
    trt: Any,
    plan: bytes,
    name: str,
    log: Log,
    *,
    dla_core: int | None = None,
    host_code: bool = False,
) -> Owners:
    """(logger, runtime, engine) out of ``plan``; keep all three while the engine is in use.

    A plan is native code: whoever calls this has checked its hash.

    Args:
        dla_core: that the engine runs on; without it the first.
        host_code: allow the code for the CPU that a version-compatible plan brings along.

    Raises:
        InputError: it was built for another GPU or version, or is damaged; says the reason.
        UnavailableError: there is no GPU or no driver.
    """
    logger = make_logger(trt, log)
    try:
        runtime = trt.Runtime(logger)
    except TypeError as error:  # the bindings' word for none
        raise UnavailableError(f"'{name}' cannot be loaded here: {log.reason()}") from error
    if dla_core is not None:
        runtime.DLA_core = dla_core
    if host_code and hasattr(runtime, "engine_host_code_allowed"):  # from 8.6; allowed before
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise InputError(
            f"'{name}' cannot be loaded by {trt.__version__} here: {log.reason()}",
            hint="Build the engine on this device: edgevision build-engine.",
        )
    if getattr(engine, "streamable_weights_size", 0):  # built for it; without a budget none is
        engine.weight_streaming_budget_v2 = engine.get_weight_streaming_automatic_budget()
    return logger, runtime, engine


def inspect(trt: Any, engine: Any) -> str:
    """The engine inspector's JSON about every layer."""
    inspector = engine.create_engine_inspector()
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


@dataclass(frozen=True)
class _Port:
    """One input or output tensor. ``largest`` is its shape at the profile's greatest batch."""

    spec: TensorSpec
    dtype: np.dtype[Any]
    smallest: tuple[int, ...]
    largest: tuple[int, ...]
    buffer: Buffer


class TensorRTRunner(Runner):
    """One execution context with its own stream and buffers. Outputs belong to the caller.

    Buffers are allocated once for the largest shapes of the optimization profile. On an integrated
    GPU (Jetson) both sides share them. Forks share the engine, and with it the weights.
    """

    def __init__(self, trt: Any, owners: Owners, name: str, log: Log, cuda: Cuda) -> None:
        self._cuda, self._log, self._name = cuda, log, name
        self._trt, self._owners = trt, owners
        with ExitStack() as undo:
            engine = owners[2]
            self._context = engine.create_execution_context()
            if self._context is None:
                raise InputError(f"'{name}': no execution context: {self._log.reason()}")
            self._stream = self._cuda.stream()
            undo.callback(self._cuda.destroy_stream, self._stream)
            self._shared = self._cuda.is_integrated()
            self._inputs: list[_Port] = []
            self._outputs: list[_Port] = []
            names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
            is_input = {n: engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT for n in names}
            for tensor in (n for n in names if is_input[n]):
                self._inputs.append(self._input(engine, tensor, undo))
            # Shapes of outputs follow from the inputs', which are now at their largest.
            for tensor in (n for n in names if not is_input[n]):
                self._outputs.append(self._output(engine, tensor, undo))
            self._undo = undo.pop_all()
        self._set: dict[str, tuple[int, ...]] = {}
        super().__init__(
            tuple(port.spec for port in self._inputs), tuple(port.spec for port in self._outputs)
        )

    @classmethod
    def open(
        cls,
        trt: Any,
        plan: bytes,
        name: str,
        cuda: Cuda | None = None,
        *,
        dla_core: int | None = None,
        host_code: bool = False,
    ) -> TensorRTRunner:
        """The runner of ``plan``; takes and raises what ``deserialize`` does."""
        log = Log()
        owners = deserialize(trt, plan, name, log, dla_core=dla_core, host_code=host_code)
        return cls(trt, owners, name, log, cuda or Cuda())

    def _input(self, engine: Any, name: str, undo: ExitStack) -> _Port:
        shape = tuple(engine.get_tensor_shape(name))
        smallest = largest = shape
        if any(size < 0 for size in shape):
            low, _, high = engine.get_tensor_profile_shape(name, 0)
            smallest, largest = tuple(low), tuple(high)
        if not self._context.set_input_shape(name, largest):
            raise InputError(f"'{self._name}': shape {largest} of '{name}': {self._log.reason()}")
        return self._port(engine, name, shape, smallest, largest, undo)

    def _output(self, engine: Any, name: str, undo: ExitStack) -> _Port:
        shape = tuple(engine.get_tensor_shape(name))
        largest = tuple(self._context.get_tensor_shape(name))
        if any(size < 0 for size in largest):
            raise ModelError(f"'{self._name}': the size of output '{name}' depends on the data.")
        return self._port(engine, name, shape, largest, largest, undo)

    def _port(
        self,
        engine: Any,
        name: str,
        shape: tuple[int, ...],
        smallest: tuple[int, ...],
        largest: tuple[int, ...],
        undo: ExitStack,
    ) -> _Port:
        kind = engine.get_tensor_dtype(name).name
        if kind not in _DTYPES:
            raise ModelError(f"'{self._name}': '{name}' is of type {kind}, which numpy has not.")
        spec = TensorSpec(
            name,
            tuple(
                size if size >= 0 else ("batch" if axis == 0 else f"axis{axis}")
                for axis, size in enumerate(shape)
            ),
            _DTYPES[kind],
        )
        dtype = np.dtype(spec.dtype)
        size = int(np.prod(largest, dtype=np.int64)) * dtype.itemsize
        buffer = Buffer(self._cuda, size, shared=self._shared)
        undo.callback(buffer.free)
        if not self._context.set_tensor_address(name, buffer.address):
            raise InputError(f"'{self._name}': address of '{name}': {self._log.reason()}")
        return _Port(spec, dtype, smallest, largest, buffer)

    def _infer_impl(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        return self._start_impl(inputs)()

    def _start_impl(self, inputs: Arrays) -> Callable[[], dict[str, npt.NDArray[Any]]]:
        for port in self._inputs:
            array = inputs[port.spec.name]
            self._set_shape(port, array.shape)
            np.copyto(port.buffer.view(array.shape, port.dtype), array)
            port.buffer.upload(array.nbytes, self._stream)
        if not self._context.execute_async_v3(self._stream):
            raise InputError(f"'{self._name}' did not run: {self._log.reason()}")
        views = {}
        for port in self._outputs:
            shape = tuple(self._context.get_tensor_shape(port.spec.name))
            views[port.spec.name] = view = port.buffer.view(shape, port.dtype)
            port.buffer.download(view.nbytes, self._stream)

        def wait() -> dict[str, npt.NDArray[Any]]:
            self._cuda.synchronize(self._stream)
            return {name: view.copy() for name, view in views.items()}

        return wait

    def _fork_impl(self) -> Runner:
        return TensorRTRunner(self._trt, self._owners, self._name, self._log, self._cuda)

    def _set_shape(self, port: _Port, shape: tuple[int, ...]) -> None:
        name = port.spec.name
        if self._set.get(name) == shape:
            return
        low, high = port.smallest, port.largest
        if not all(low[axis] <= size <= high[axis] for axis, size in enumerate(shape)):
            raise InputError(
                f"Input '{name}' expected: {list(port.smallest)} to {list(port.largest)}, "
                f"given: {list(shape)}.",
                hint="Build the engine for that shape: edgevision build-engine --max-batch, "
                "--max-shapes.",
            )
        if not self._context.set_input_shape(name, shape):
            raise InputError(f"Input '{name}' of shape {list(shape)}: {self._log.reason()}")
        self._set[name] = shape

    def _close_impl(self) -> None:
        self._cuda.synchronize(self._stream)
        self._context = None
        self._owners = (None, None, None)
        self._undo.close()
