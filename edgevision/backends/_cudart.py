"""The CUDA runtime through ctypes: JetPack brings the library, and for its Python no package.

``Cudart`` has the names and the manner of ``cuda.bindings.runtime``, as far as ``Cuda`` uses it:
every call returns the error and then its values.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from enum import IntEnum
from pathlib import Path
from typing import Any

from edgevision.errors import MissingExtraError

# Where CUDA lies on a Jetson and beside a driver; the newest of a folder is the last.
_PLACES = (
    "usr/local/cuda/lib64/libcudart.so*",
    "usr/local/cuda/targets/*/lib/libcudart.so*",
    "usr/lib/*-linux-gnu/libcudart.so*",
)
_POINTER, _SIZE, _INT = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
# Types of the arguments behind the one that a call writes to, if any.
_WRITES = {
    "cudaGetDeviceCount": (_INT, ()),
    "cudaRuntimeGetVersion": (_INT, ()),
    "cudaDeviceGetAttribute": (_INT, (_INT, _INT)),
    "cudaStreamCreateWithFlags": (_POINTER, (ctypes.c_uint,)),
    "cudaHostAlloc": (_POINTER, (_SIZE, ctypes.c_uint)),
    "cudaHostGetDevicePointer": (_POINTER, (_POINTER, ctypes.c_uint)),
    "cudaMalloc": (_POINTER, (_SIZE,)),
}
_CALLS = {
    "cudaStreamDestroy": (_POINTER,),
    "cudaStreamSynchronize": (_POINTER,),
    "cudaFreeHost": (_POINTER,),
    "cudaFree": (_POINTER,),
    "cudaMemcpyAsync": (_POINTER, _POINTER, _SIZE, _INT, _POINTER),
}


class _Error(IntEnum):
    cudaSuccess = 0  # noqa: N815 (the vendor's name)


class _Attribute(IntEnum):
    cudaDevAttrIntegrated = 18  # noqa: N815


class _Kind(IntEnum):
    cudaMemcpyHostToDevice = 1  # noqa: N815
    cudaMemcpyDeviceToHost = 2  # noqa: N815


class Cudart:
    """The library at ``path``, None for the one of this machine.

    Raises:
        MissingExtraError: there is none.
    """

    cudaError_t = _Error  # noqa: N815
    cudaDeviceAttr = _Attribute  # noqa: N815
    cudaMemcpyKind = _Kind  # noqa: N815
    cudaStreamNonBlocking = 1  # noqa: N815
    cudaHostAllocMapped = 2  # noqa: N815

    def __init__(self, path: str | None = None) -> None:
        found = path or find_cudart()
        if found is None:
            raise MissingExtraError(
                "Neither cuda-bindings nor libcudart is here.",
                hint="Install it with: pip install 'edgevision[tensorrt]'",
            )
        try:
            self._library = ctypes.CDLL(found)
        except OSError as error:
            raise MissingExtraError(f"'{found}' cannot be loaded: {error}.") from error
        self._library.cudaGetErrorString.restype = ctypes.c_char_p

    def __getattr__(self, name: str) -> Any:
        if name in _WRITES:
            kind, types = _WRITES[name]
            return self._writing(name, kind, types)
        if name in _CALLS:
            call = getattr(self._library, name)
            call.argtypes = _CALLS[name]
            return lambda *arguments: (call(*arguments),)
        raise AttributeError(name)

    def cudaGetErrorString(self, error: int) -> tuple[int, bytes]:  # noqa: N802
        """As the vendor's."""
        return 0, self._library.cudaGetErrorString(_INT(error))

    def _writing(self, name: str, kind: Any, types: tuple[Any, ...]) -> Any:
        call = getattr(self._library, name)
        call.argtypes = (ctypes.POINTER(kind), *types)

        def made(*arguments: Any) -> tuple[int, Any]:
            value = kind()
            error = call(ctypes.byref(value), *arguments)
            return error, value.value

        return made


def find_cudart() -> str | None:
    """Path or name of this machine's libcudart; None without one."""
    for place in _PLACES:
        found = sorted(Path("/").glob(place), key=_release)
        if found:
            return str(found[-1])
    return ctypes.util.find_library("cudart")


def _release(path: Path) -> list[int]:
    return [int(part) for part in path.name.split(".") if part.isdigit()]
