"""The CUDA runtime through ctypes: NVIDIA's library, and one that plays a GPU in host memory."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgevision.backends._cuda import Buffer, Cuda
from edgevision.backends._cudart import Cudart
from edgevision.errors import MissingExtraError, UnavailableError

# The signatures are those of NVIDIA's cuda_runtime_api.h.
_PLAYED = r"""
#include <stdlib.h>
#include <string.h>
int cudaGetDeviceCount(int *count) { *count = 1; return 0; }
int cudaRuntimeGetVersion(int *version) { *version = 12060; return 0; }
int cudaDeviceGetAttribute(int *value, int attribute, int device) {
  *value = attribute == 18 && device == 0; return 0; }
int cudaStreamCreateWithFlags(void **stream, unsigned flags) {
  *stream = malloc(flags); return 0; }
int cudaStreamDestroy(void *stream) { free(stream); return 0; }
int cudaStreamSynchronize(void *stream) { return stream ? 0 : 400; }
int cudaHostAlloc(void **host, size_t size, unsigned flags) {
  *host = calloc(size, 1); return flags == 2 ? 0 : 1; }
int cudaHostGetDevicePointer(void **device, void *host, unsigned flags) {
  *device = host; return flags; }
int cudaMalloc(void **device, size_t size) {
  if (size > ((size_t)1 << 40)) return 2;
  *device = calloc(size, 1); return 0; }
int cudaFree(void *device) { free(device); return 0; }
int cudaFreeHost(void *host) { free(host); return 0; }
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) {
  if (kind != 1 && kind != 2) return 21;
  memcpy(to, from, size); return 0; }
const char *cudaGetErrorString(int error) { return error == 2 ? "out of memory" : "other"; }
"""


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Cuda:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler on this machine")
    folder = tmp_path_factory.mktemp("cudart")
    source, library = folder / "cudart.c", folder / "libcudart.so"
    source.write_text(_PLAYED)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return Cuda(Cudart(str(library)))


def nvidias() -> Cuda:
    found = [p for entry in sys.path for p in Path(entry).glob("nvidia/*/lib/libcudart.so*")]
    if not found:
        pytest.skip("NVIDIA's libcudart is not installed")
    return Cuda(Cudart(str(found[0])))


@pytest.mark.parametrize("shared", [False, True])
def test_moves_an_array_there_and_back(played: Cuda, shared: bool) -> None:
    assert played.device_count() == 1
    assert played.version() == "12.6"
    assert played.is_integrated()
    values = np.arange(24, dtype=np.float32).reshape(2, 12)
    stream = played.stream()
    given, back = (Buffer(played, values.nbytes, shared=shared) for _ in range(2))
    given.view(values.shape, values.dtype)[...] = values
    given.upload(values.nbytes, stream)
    played.to_host(back._host, given.address, values.nbytes, stream)
    played.synchronize(stream)
    np.testing.assert_array_equal(back.view(values.shape, values.dtype), values)
    for buffer in (given, back):
        buffer.free()
    played.destroy_stream(stream)


def test_an_error_is_raised_with_its_words(played: Cuda) -> None:
    with pytest.raises(UnavailableError, match="out of memory"):
        played.device(1 << 41)
    with pytest.raises(UnavailableError, match=r"other.*400"):
        played.synchronize(0)


def test_nvidias_own_library_without_a_driver() -> None:
    cuda = nvidias()
    assert int(cuda.version().split(".")[0]) >= 11
    if cuda.device_count():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UnavailableError, match="driver"):
        cuda.host(16)


def test_without_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgevision.backends._cudart.find_cudart", lambda: None)
    with pytest.raises(MissingExtraError, match="libcudart"):
        Cudart()
