"""Files that are whole or absent: atomic writes, hashes, canonical JSON. Standard library only."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


def canonical_json(value: Any) -> bytes:
    """``value`` as JSON bytes that depend on nothing but the value: sorted keys, no NaN."""
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def digest(value: Any) -> str:
    """sha256 hex of ``canonical_json(value)``."""
    return sha256_bytes(canonical_json(value))


def sha256_bytes(data: bytes) -> str:
    """sha256 hex of ``data``."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """sha256 hex of a file's bytes, read in chunks."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            sha.update(chunk)
    return sha.hexdigest()


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` to a temporary file beside ``path``, flush it to disk and rename it."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as canonical JSON, atomically."""
    write_atomic(path, canonical_json(value))


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it becomes ``path``, else it is removed.

    For libraries that insist on writing a file themselves.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that is named ``path`` when the block ends well, and is gone otherwise."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        yield file


def sync(path: Path) -> None:
    """Flush a file or folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def publish_folder(work: Path, final: Path) -> None:
    """Make the finished folder ``work`` appear as ``final`` in one rename.

    An older ``final`` is moved aside first and removed after; a crash between the two renames
    leaves the finished ``work``, so the same call puts it right.
    """
    for path in sorted(work.rglob("*")):
        sync(path)
    sync(work)
    old = final.with_name(f".{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    work.rename(final)
    sync(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def files_of(folder: Path) -> dict[str, dict[str, Any]]:
    """``{relative path: {"sha256": …, "size": …}}`` of every file below ``folder``, sorted."""
    return {
        path.relative_to(folder).as_posix(): {
            "sha256": sha256_file(path),
            "size": path.stat().st_size,
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
