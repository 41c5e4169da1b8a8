"""Named arrays in one file, as both ends of a connection read and write them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevision.errors import InputError

if TYPE_CHECKING:
    import numpy.typing as npt

_DATE = (1980, 1, 1, 0, 0, 0)


def write_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write ``path``, a zip that ``numpy.load`` reads; the same bytes for the same arrays.

    ``numpy.savez`` cannot take an array called "file".
    """
    with zipfile.ZipFile(str(path), "w") as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", _DATE)
            with archive.open(entry, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """What ``write_arrays`` wrote.

    Raises:
        InputError: it is damaged, or holds something other than arrays of numbers.
    """
    try:
        with np.load(str(path), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, OSError, zipfile.BadZipFile, EOFError, AttributeError) as error:
        raise InputError(f"'{path.name}' holds no arrays: {error}") from error
