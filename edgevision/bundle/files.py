"""Writing so that a kill or a full disk leaves the old file or the new one, never a half."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that takes the place of ``path`` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; these are as readable as any other new file.
        Path(name).chmod(0o666 & ~_umask())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` survive a power cut, where the system can."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_folder(new: Path, place: Path) -> None:
    """Rename the folder ``new`` to ``place`` on the same disk; one that is there is removed."""
    if place.exists():
        old = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}.old."))
        place.rename(old / place.name)
        new.rename(place)
        shutil.rmtree(old)
    else:
        new.rename(place)
    sync_folder(place.parent)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
