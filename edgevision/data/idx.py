"""The IDX format of the MNIST family, plain or gzipped."""

from __future__ import annotations

import gzip
import struct
import zlib

import numpy as np
import numpy.typing as npt

from edgevision.errors import DataError

_MOST_BYTES = 1 << 30  # the largest set of the family has 47 MB; more is a gzip bomb


def read_idx(content: bytes, name: str) -> npt.NDArray[np.uint8]:
    """Decode uint8 IDX bytes (gzipped or not): the header's shape, e.g. (60000, 28, 28).

    Raises:
        DataError: not IDX, of another dtype, truncated, or larger than 1 GiB.
    """
    if content[:2] == b"\x1f\x8b":
        try:
            inflater = zlib.decompressobj(wbits=31)
            content = inflater.decompress(content, _MOST_BYTES)
        except zlib.error as error:
            raise DataError(f"{name}: the gzip data is damaged ({error}).") from error
        if inflater.unconsumed_tail:
            raise DataError(f"{name}: more than {_MOST_BYTES} bytes when unpacked.")
        if not inflater.eof:
            raise DataError(f"{name}: the gzip data is truncated.")
    if len(content) < 4 or content[:3] != b"\0\0\x08" or not 1 <= content[3] <= 4:
        raise DataError(f"{name}: no IDX file of bytes; it starts with {content[:4]!r}.")
    rank = content[3]
    start = 4 + 4 * rank
    if len(content) < start:
        raise DataError(f"{name}: truncated in its header, {len(content)} of {start} bytes.")
    shape = struct.unpack(f">{rank}I", content[4:start])
    count = 1
    for axis in shape:
        count *= axis
    if len(content) - start != count:
        raise DataError(
            f"{name}: the header says {shape}, {count} bytes, and {len(content) - start} follow."
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def write_idx(array: npt.NDArray[np.uint8]) -> bytes:
    """``array`` as gzipped IDX; the same bytes for the same array."""
    header = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(header + np.ascontiguousarray(array).tobytes(), 9, mtime=0)
