"""The few CUDA runtime calls that running an engine takes, each checked.

cuda-bindings moved its module in 12.8. Where it is not installed, as on a Jetson with what JetPack
brings, the library is called itself.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevision.backends._cudart import Cudart
from edgevision.errors import MissingExtraError, UnavailableError
from edgevision.lazy import require

if TYPE_CHECKING:
    import numpy.typing as npt


class Cuda:
    """The CUDA runtime. Every call returns its value or raises.

    Args:
        runtime: ``cuda.bindings.runtime`` or what has its names; None for what is found here.

    Raises:
        MissingExtraError: there is neither cuda-bindings nor the library.
    """

    def __init__(self, runtime: Any = None) -> None:
        self._rt = runtime or _found()

    def device_count(self) -> int:
        """GPUs that the driver shows; 0 without a driver."""
        error, count = self._rt.cudaGetDeviceCount()
        return int(count) if error == self._rt.cudaError_t.cudaSuccess else 0

    def version(self) -> str:
        """Of the CUDA runtime, e.g. "12.6"."""
        number = int(self._checked(self._rt.cudaRuntimeGetVersion()))
        return f"{number // 1000}.{number % 1000 // 10}"

    def is_integrated(self) -> bool:
        """Whether the GPU shares the CPU's memory, as on a Jetson."""
        attribute = self._rt.cudaDeviceAttr.cudaDevAttrIntegrated
        return bool(self._checked(self._rt.cudaDeviceGetAttribute(attribute, 0)))

    def stream(self) -> int:
        """A new stream that does not wait for the default one."""
        flags = self._rt.cudaStreamNonBlocking
        return int(self._checked(self._rt.cudaStreamCreateWithFlags(flags)))

    def destroy_stream(self, stream: int) -> None:
        """Free a stream."""
        self._checked(self._rt.cudaStreamDestroy(stream))

    def synchronize(self, stream: int) -> None:
        """Wait for everything put on ``stream``."""
        self._checked(self._rt.cudaStreamSynchronize(stream))

    def host(self, size: int) -> int:
        """Address of ``size`` bytes of pinned host memory that is mapped for the GPU."""
        return int(self._checked(self._rt.cudaHostAlloc(size, self._rt.cudaHostAllocMapped)))

    def free_host(self, address: int) -> None:
        """Free what ``host`` gave."""
        self._checked(self._rt.cudaFreeHost(address))

    def mapped(self, address: int) -> int:
        """The GPU's address of pinned host memory."""
        return int(self._checked(self._rt.cudaHostGetDevicePointer(address, 0)))

    def device(self, size: int) -> int:
        """Address of ``size`` bytes on the GPU."""
        return int(self._checked(self._rt.cudaMalloc(size)))

    def free_device(self, address: int) -> None:
        """Free what ``device`` gave."""
        self._checked(self._rt.cudaFree(address))

    def to_device(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy ``size`` bytes host → device on ``stream``."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._checked(self._rt.cudaMemcpyAsync(target, source, size, kind, stream))

    def to_host(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy ``size`` bytes device → host on ``stream``."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._checked(self._rt.cudaMemcpyAsync(target, source, size, kind, stream))

    def _checked(self, result: tuple[Any, ...]) -> Any:
        error, *values = result
        if error != self._rt.cudaError_t.cudaSuccess:
            _, text = self._rt.cudaGetErrorString(error)
            words = text.decode() if isinstance(text, bytes) else str(text)
            raise UnavailableError(f"CUDA: {words} ({getattr(error, 'name', error)}).")
        return values[0] if values else None


def _found() -> Any:
    for module in ("cuda.bindings.runtime", "cuda.cudart"):
        try:
            return require(module)
        except MissingExtraError:
            continue
    return Cudart()


class Buffer:
    """Memory for one tensor, reachable from both sides.

    With an integrated GPU both sides use the same bytes and nothing is copied; otherwise ``upload``
    and ``download`` copy between pinned host memory and the GPU's.
    """

    def __init__(self, cuda: Cuda, size: int, *, shared: bool) -> None:
        self._cuda = cuda
        self._shared = shared
        size = max(size, 1)
        self._host = cuda.host(size)
        try:
            self.address = cuda.mapped(self._host) if shared else cuda.device(size)
        except UnavailableError:
            cuda.free_host(self._host)
            raise
        self._bytes = np.ctypeslib.as_array(
            ctypes.cast(self._host, ctypes.POINTER(ctypes.c_uint8)), (size,)
        )

    def view(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """The first bytes as an array of ``shape``; valid until ``free``."""
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        return self._bytes[:size].view(dtype).reshape(shape)

    def upload(self, size: int, stream: int) -> None:
        """Make ``size`` bytes that the host wrote visible to the GPU."""
        if not self._shared:
            self._cuda.to_device(self.address, self._host, size, stream)

    def download(self, size: int, stream: int) -> None:
        """Make ``size`` bytes that the GPU wrote visible to the host once the stream is done."""
        if not self._shared:
            self._cuda.to_host(self._host, self.address, size, stream)

    def free(self) -> None:
        """Give the memory back."""
        if not self._shared:
            self._cuda.free_device(self.address)
        self._cuda.free_host(self._host)
