"""Stand-ins for TensorRT's Python module, one for each version whose names are known.

``trt_names.json`` lists the classes and enums of the real bindings with their members. A stand-in
has those names and no others: code that asks for a name which its version lacks fails here as it
would there. What the few methods that building and running take do is written below; every call is
recorded as "Class.method".
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

_NAMES = json.loads(Path(__file__).with_name("trt_names.json").read_text(encoding="utf-8"))
VERSIONS = sorted(_NAMES)


class Script:
    """What the next build or run does, and what was called meanwhile."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.parser_errors: list[tuple[str, int]] = []  # description, node number
        self.build_error: str | None = None
        self.layers: str | None = None
        self.stale_cache = False
        self.inspector = "{}"
        self.phases: list[tuple[str, str, int]] = []  # kind, phase, number
        self.shape = (-1, 3, 16, 16)
        self.load_error: str | None = None


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
            setattr(trt, name, IntEnum(name, members, start=0))
        else:
            setattr(trt, name, _class(name, members, script, trt))
    return trt


def _class(name: str, members: list[str], script: Script, trt: SimpleNamespace) -> type:
    """A class with ``members`` and no others; plays the methods of ``_PLAYS``."""
    known = frozenset(members)

    def read(self: Any, attribute: str) -> Any:
        raise AttributeError(f"{name} of {trt.__version__} has no '{attribute}' or plays none")

    def write(self: Any, attribute: str, value: Any) -> None:
        if not attribute.startswith("_") and attribute not in known:
            raise AttributeError(f"{name} of {trt.__version__} has no '{attribute}'")
        if not attribute.startswith("_"):
            script.calls.append(f"{name}.{attribute}={value!s}")
        object.__setattr__(self, attribute, value)

    body: dict[str, Any] = {"__getattr__": read, "__setattr__": write}
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
        self._logger = logger

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
    num_inputs = 1

    def get_input(self, index: int) -> Any:
        assert index == 0
        return self._trt.ITensor()


class _Tensor:
    def __init__(self) -> None:
        self._set = True
        object.__setattr__(self, "name", "images")
        object.__setattr__(self, "shape", self._script.shape)


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


class _Config:
    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self._script.calls.append(f"{pool.name}={size}")

    def set_flag(self, flag: Any) -> None:
        self._script.calls.append(f"flag {flag.name}")

    def set_compute_capability(self, member: Any, index: int) -> bool:
        self._script.calls.append(f"capability {index} {member.name}")
        return True

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

    def create_engine_inspector(self) -> Any:
        return self._trt.EngineInspector()

    def create_execution_context(self) -> Any:
        return self._trt.IExecutionContext()

    def get_tensor_name(self, index: int) -> str:
        return ("images", "logits")[index]

    def get_tensor_mode(self, name: str) -> Any:
        modes = self._trt.TensorIOMode
        return modes.INPUT if name == "images" else modes.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return self._trt.DataType.FLOAT

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
        assert form is self._trt.LayerInformationFormat.JSON
        return str(self._script.inspector)


_PLAYS: dict[str, type] = {
    "Builder": _Builder,
    "INetworkDefinition": _Network,
    "ITensor": _Tensor,
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
