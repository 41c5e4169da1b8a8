"""Folders of the agent: files by hash, which later runs find again, and work to throw away."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from edgevision.errors import InputError
from edgevision.files import sha256_file

_NAME = re.compile(r"[0-9a-f]{64}(\.[a-z0-9]{1,16})?")
_KEY = re.compile(r"[0-9a-f]{64}")
_KEPT_DAYS = 30


class Store:
    """``files/`` with what was sent or made, ``work/`` with one locked folder a process.

    Args:
        root: made if it is not there; for this user alone.
        own: the archive that runs, which is kept.
    """

    def __init__(self, root: Path, own: Path | None = None) -> None:
        self.root = root
        self.files = root / "files"
        self.files.mkdir(parents=True, exist_ok=True)
        root.chmod(0o700)
        (root / "work").mkdir(exist_ok=True)
        if own is not None and own.is_file():
            os.utime(str(own))
        self._remove_old()
        # One process at a time: another one must not find the new folder without its lock.
        whole = _locked(root / "work", wait=True)
        try:
            self._remove_abandoned()
            self.work = Path(tempfile.mkdtemp(dir=str(root / "work")))
            self._lock = _locked(self.work)
        finally:
            os.close(whole)

    def path(self, name: str) -> Path:
        """Where the file ``name`` (sha256 hex with its suffix) is or will be.

        Raises:
            InputError: it is no such name.
        """
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InputError(f"A file is named by its sha256 and suffix, got {name!r}.")
        return self.files / name

    def existing(self, name: str) -> Path:
        """The whole file ``name``.

        Raises:
            InputError: it is not here.
        """
        path = self.path(name)
        if not path.is_file():
            raise InputError(f"No file {name} on the device.")
        os.utime(str(path))  # used now: kept for another while
        return path

    def missing(self, names: list[str]) -> list[str]:
        """Those of ``names`` that are not here whole; a damaged one is removed."""
        gone = []
        for name in names:
            path = self.path(name)
            if path.is_file() and sha256_file(path) == name[:64]:
                os.utime(str(path))
                continue
            path.unlink(missing_ok=True)
            gone.append(name)
        return gone

    def sent(self, name: str) -> int:
        """Bytes of the file ``name`` that an interrupted transfer left here."""
        part = self.files / f"{name}.part"
        return part.stat().st_size if part.is_file() else 0

    def accept(self, name: str) -> None:
        """Take over what was sent to ``<name>.part``.

        Raises:
            InputError: its bytes are not those that were sent; they are thrown away.
        """
        path = self.path(name)
        part = path.with_name(f"{name}.part")
        try:
            found = sha256_file(part)
            if found == name[:64]:
                part.replace(path)
                return
        except FileNotFoundError:
            found = "no file"
        # Other processes of this user may send the same, and one of them was first.
        part.unlink(missing_ok=True)
        if not path.is_file() or sha256_file(path) != name[:64]:
            raise InputError(f"A file arrived damaged: sha256 expected {name[:64]}, found {found}.")

    def offer(self, made: Path) -> dict[str, Any]:
        """What it takes to fetch the finished file ``made``: its path below the root, its hash."""
        return {
            "path": made.relative_to(self.root).as_posix(),
            "sha256": sha256_file(made),
            "size": made.stat().st_size,
        }

    def forget_build(self, key: str) -> None:
        """Remove the engine ``key`` and its record.

        Raises:
            InputError: it is no such key.
        """
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise InputError(f"A build is named by a sha256, got {key!r}.")
        builds = self.root / "builds"
        (builds / f"{key}.json").unlink(missing_ok=True)
        shutil.rmtree(str(builds / key), ignore_errors=True)

    def close(self) -> None:
        """Remove the work folder."""
        shutil.rmtree(str(self.work), ignore_errors=True)
        os.close(self._lock)

    def _remove_old(self) -> None:
        oldest = time.time() - _KEPT_DAYS * 86_400
        for name in ("files", "agents", "builds", "timing"):
            for path in (self.root / name).glob("*"):
                with contextlib.suppress(OSError):
                    if path.stat().st_mtime >= oldest:
                        continue
                    if path.is_dir():
                        shutil.rmtree(str(path))
                    else:
                        path.unlink()

    def _remove_abandoned(self) -> None:
        """Work of processes that were killed: nobody holds its lock."""
        for folder in (self.root / "work").iterdir():
            with contextlib.suppress(OSError):
                os.close(_locked(folder))
                shutil.rmtree(str(folder), ignore_errors=True)


def _locked(folder: Path, *, wait: bool = False) -> int:
    """A handle that keeps ``folder`` locked. BlockingIOError: another process does."""
    handle = os.open(str(folder), os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle
