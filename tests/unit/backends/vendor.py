"""Stand-ins for TensorRT's Python module, one for each version whose names are known.

``trt_names.json`` lists the classes and enums of the real bindings with their members, read off
them by ``trt_inventory.py``. A stand-in has those names and no others: code that asks for a name
which its version lacks fails here as it would there. What the few methods that building and running
take do is written below; every call is recorded as "Class.method", and every name that was asked
for and is there in ``reached``.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Iterator
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

_NAMES = json.loads(Path(__file__).with_name("trt_names.json").read_text(encoding="utf-8"))
VERSIONS = list(_NAMES)
CLASSIC = [version for version in VERSIONS if not version.startswith("rtx")]
IN_8 = [version for version in VERSIONS if version.startswith("8.")]
SINCE_10 = [version for version in VERSIONS if version not in IN_8]


class Script:
    """What the next build or run does, and what was called meanwhile."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.reached: set[str] = set()  # names of the vendor's, as "Class.member"
        # Description and node number; with node and operator by the vendor's own words.
        self.parser_errors: list[tuple[str, int] | tuple[str, int, str, str]] = []
        self.build_error: str | None = None
        self.layers: str | None = None
        self.stale_cache = False
        self.inspector = "{}"
        self.phases: list[tuple[str, str, int]] = []  # kind, phase, number
        self.shape: tuple[int, ...] = (-1, 3, 16, 16)
        self.more_inputs: dict[str, tuple[int, ...]] = {}
        self.load_error: str | None = None
        self.dla_cores = 2
        self.on_dla = ("conv", "relu")
        self.streamable = 0  # bytes of weights that may be streamed
        self.no_builder = False


def names(version: str) -> set[str]:
    """Every name of ``version``: "Class" and "Class.member"."""
    found = set()
    for name, members in _NAMES[version]["classes"].items():
        found |= {name, *(f"{name}.{member}" for member in members.split()[1:])}
    return found


def vendor(version: str, script: Script, *, without: tuple[str, ...] = ()) -> SimpleNamespace:
    """The module of ``version``; ``without`` takes away more names, as "Class.member"."""
    facts = _NAMES[version]
    classes: dict[str, list[str]] = {}
    for name, members in facts["classes"].items():
        kind, *rest = members.split()
        kept = [member for member in rest if f"{name}.{member}" not in without]
        if name not in without:
            classes[name] = [kind, *kept]
    trt = SimpleNamespace(__version__=facts["__version__"])
    for name, (kind, *members) in classes.items():
        if kind == "E":
            setattr(trt, name, _Members(IntEnum(name, members, start=0), script))
        else:
            setattr(trt, name, _class(name, members, script, trt))
    return trt


class _Members:
    """An enum that notes which members were asked for."""

    def __init__(self, members: type[IntEnum], script: Script) -> None:
        self._members = members
        self._script = script

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._members, name)
        self._script.reached |= {self._members.__name__, f"{self._members.__name__}.{name}"}
        return member

    def __iter__(self) -> Iterator[IntEnum]:
        return iter(self._members)

    def __dir__(self) -> list[str]:
        return list(self._members.__members__)


def _member(members: _Members, name: str) -> IntEnum:
    """A member that the stand-in itself gives, which counts as none that was asked for."""
    return members._members[name]


def _class(name: str, members: list[str], script: Script, trt: SimpleNamespace) -> type:
    """A class with ``members`` and no others; plays the methods of ``_PLAYS``."""
    known = frozenset(members)

    def read(self: Any, attribute: str) -> Any:
        raise AttributeError(f"{name} of {trt.__version__} has no '{attribute}' or plays none")

    def note(self: Any, attribute: str) -> Any:
        if attribute.startswith("_"):
            return object.__getattribute__(self, attribute)
        if attribute not in known:
            raise AttributeError(attribute)
        found = object.__getattribute__(self, attribute)
        script.reached |= {name, f"{name}.{attribute}"}
        return found

    def write(self: Any, attribute: str, value: Any) -> None:
        if not attribute.startswith("_") and attribute not in known:
            raise AttributeError(f"{name} of {trt.__version__} has no '{attribute}'")
        if not attribute.startswith("_"):
            script.calls.append(f"{name}.{attribute}={value!s}")
            script.reached |= {name, f"{name}.{attribute}"}
        object.__setattr__(self, attribute, value)

    body: dict[str, Any] = {"__getattr__": read, "__setattr__": write, "__getattribute__": note}
    body["_script"], body["_trt"] = script, trt
    for attribute, play in vars(_PLAYS.get(name, object)).items():
        if attribute.startswith("_") and attribute not in ("__init__", "__bytes__", "_node"):
            continue
        if attribute.startswith("_") or attribute in known:
            body[attribute] = _recorded(f"{name}.{attribute}", play, script)
    if name == "ILogger":
        body |= {level: level for level in ("ERROR", "INTERNAL_ERROR", "WARNING") if level in known}
    return type(name, (), body)


def _recorded(label: str, play: Any, script: Script) -> Any:
    if not callable(play):
        return play

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        script.calls.append(label)
        return play(self, *args, **kwargs)

    return call


class _Builder:
    def __init__(self, logger: Any) -> None:
        if self._script.no_builder:
            logger.log(self._trt.ILogger.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._logger = logger
        object.__setattr__(self, "num_DLA_cores", self._script.dla_cores)

    def create_network(self, flags: int) -> Any:
        known = 0
        for member in self._trt.NetworkDefinitionCreationFlag:
            known |= 1 << int(member)
        assert flags & ~known == 0, "a bit that this version does not know"
        self._script.calls.append(f"flags={flags}")
        return self._trt.INetworkDefinition()

    def create_builder_config(self) -> Any:
        return self._trt.IBuilderConfig()

    def create_optimization_profile(self) -> Any:
        return self._trt.IOptimizationProfile()

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        script = self._script
        for kind, phase, number in script.phases:
            monitor = config.progress_monitor
            if kind == "start":
                monitor.phase_start(phase, None, number)
            elif kind == "finish":
                monitor.phase_finish(phase)
            elif not monitor.step_complete(phase, number):
                return None
        if script.layers is not None:
            self._logger.log("VERBOSE", script.layers)
        if script.build_error is not None:
            self._logger.log(self._trt.ILogger.ERROR, script.build_error)
            return None
        return self._trt.IHostMemory()


class _Network:
    def __init__(self) -> None:
        self._inputs = {"images": self._script.shape, **self._script.more_inputs}
        object.__setattr__(self, "num_inputs", len(self._inputs))
        object.__setattr__(self, "num_layers", len(_LAYERS))

    def get_input(self, index: int) -> Any:
        tensor = self._trt.ITensor()
        name, shape = list(self._inputs.items())[index]
        object.__setattr__(tensor, "name", name)
        object.__setattr__(tensor, "shape", shape)
        return tensor

    def get_layer(self, index: int) -> Any:
        layer = self._trt.ILayer()
        name, kind = _LAYERS[index]
        object.__setattr__(layer, "name", name)
        object.__setattr__(layer, "type", _member(self._trt.LayerType, kind))
        return layer


_LAYERS = (
    ("weights", "CONSTANT"),
    ("conv", "CONVOLUTION"),
    ("relu", "ACTIVATION"),
    ("softmax", "SOFTMAX"),
)


class _Parser:
    def __init__(self, network: Any, logger: Any) -> None:
        object.__setattr__(self, "num_errors", len(self._script.parser_errors))

    def parse(self, data: bytes) -> bool:
        assert isinstance(data, bytes)
        return not self._script.parser_errors

    def get_error(self, index: int) -> Any:
        error = self._trt.ParserError()
        error._node = self._script.parser_errors[index]
        return error


class _ParserError:
    def desc(self) -> str:
        return str(self._node[0])

    def node(self) -> int:
        return int(self._node[1])

    def node_name(self) -> str:
        return str(self._node[2]) if len(self._node) > 2 else ""

    def node_operator(self) -> str:
        return str(self._node[3]) if len(self._node) > 2 else ""


class _Config:
    builder_optimization_level = 3

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self._script.calls.append(f"{pool.name}={size}")

    def set_flag(self, flag: Any) -> None:
        self._script.calls.append(f"flag {flag.name}")

    def set_compute_capability(self, member: Any, index: int) -> bool:
        self._script.calls.append(f"capability {index} {member.name}")
        return True

    def can_run_on_DLA(self, layer: Any) -> bool:
        return layer.name in self._script.on_dla

    def add_optimization_profile(self, profile: Any) -> int:
        return 0

    def create_timing_cache(self, known: bytes) -> Any:
        self._script.calls.append(f"cache of {len(known)}")
        return self._trt.ITimingCache()

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if self._script.stale_cache:
            self._script.stale_cache = False
            return False
        return True

    def get_timing_cache(self) -> Any:
        return self._trt.ITimingCache()


class _Cache:
    def serialize(self) -> bytes:
        return b"timings"


class _Profile:
    def set_shape(self, name: str, low: Any, opt: Any, high: Any) -> None:
        self._script.calls.append(f"profile {name} {low} {opt} {high}")


class _HostMemory:
    def __bytes__(self) -> bytes:
        return plan()


class _Runtime:
    engine_host_code_allowed = False

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, data: bytes) -> Any:
        if self._script.load_error is not None:
            self._logger.log(self._trt.ILogger.ERROR, self._script.load_error)
            return None
        return self._trt.ICudaEngine()


class _Engine:
    """An engine that doubles: ``images`` float32 → ``logits`` float32 of the same shape."""

    num_io_tensors = 2

    def __init__(self) -> None:
        object.__setattr__(self, "streamable_weights_size", self._script.streamable)

    def get_weight_streaming_automatic_budget(self) -> int:
        return self._script.streamable // 2

    def create_engine_inspector(self) -> Any:
        return self._trt.EngineInspector()

    def create_execution_context(self) -> Any:
        return self._trt.IExecutionContext()

    def get_tensor_name(self, index: int) -> str:
        return ("images", "logits")[index]

    def get_tensor_mode(self, name: str) -> Any:
        return _member(self._trt.TensorIOMode, "INPUT" if name == "images" else "OUTPUT")

    def get_tensor_dtype(self, name: str) -> Any:
        return _member(self._trt.DataType, "FLOAT")

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._script.shape

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(size, *self._script.shape[1:]) for size in (1, 2, 4)]


class _Context:
    def __init__(self) -> None:
        self._shape: tuple[int, ...] = self._script.shape
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shape = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._shape

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        source, target = (_floats(self._addresses[n], self._shape) for n in ("images", "logits"))
        np.copyto(target, source * 2)
        return True


class _Inspector:
    def get_engine_information(self, form: Any) -> str:
        assert form is _member(self._trt.LayerInformationFormat, "JSON")
        return str(self._script.inspector)


_PLAYS: dict[str, type] = {
    "Builder": _Builder,
    "INetworkDefinition": _Network,
    "OnnxParser": _Parser,
    "ParserError": _ParserError,
    "IBuilderConfig": _Config,
    "ITimingCache": _Cache,
    "IOptimizationProfile": _Profile,
    "IHostMemory": _HostMemory,
    "Runtime": _Runtime,
    "ICudaEngine": _Engine,
    "IExecutionContext": _Context,
    "EngineInspector": _Inspector,
    "ILogger": type("_Logger", (), {"__init__": lambda self: None}),
    "IProgressMonitor": type("_Monitor", (), {"__init__": lambda self: None}),
}


def plan(magic: bytes = b"ftrt") -> bytes:
    """Bytes with a plan's header, of TensorRT 10.3.0.26."""
    return magic + bytes(20) + bytes((10, 3, 0, 26)) + b"rest"


def _floats(address: int, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    count = int(np.prod(shape))
    pointer = ctypes.cast(address, ctypes.POINTER(ctypes.c_float))
    return np.ctypeslib.as_array(pointer, (count,)).reshape(shape)


class HostCuda:
    """The calls of ``Cuda`` over plain memory: device and host are apart, as on a discrete GPU."""

    def __init__(self, *, integrated: bool = False) -> None:
        self.integrated = integrated
        self.held: dict[int, Any] = {}
        self.copies: list[str] = []
        self.streams = 0

    def is_integrated(self) -> bool:
        return self.integrated

    def stream(self) -> int:
        self.streams += 1
        return 7

    def destroy_stream(self, stream: int) -> None:
        self.streams -= 1

    def synchronize(self, stream: int) -> None:
        assert stream == 7

    def host(self, size: int) -> int:
        memory = ctypes.create_string_buffer(size)
        self.held[ctypes.addressof(memory)] = memory
        return ctypes.addressof(memory)

    device: Callable[[HostCuda, int], int] = host

    def mapped(self, address: int) -> int:
        return address

    def free_host(self, address: int) -> None:
        del self.held[address]

    def free_device(self, address: int) -> None:
        del self.held[address]

    def to_device(self, target: int, source: int, size: int, stream: int) -> None:
        self.copies.append("to device")
        ctypes.memmove(target, source, size)

    def to_host(self, target: int, source: int, size: int, stream: int) -> None:
        self.copies.append("to host")
        ctypes.memmove(target, source, size)
