"""One build or measurement at a time on a machine, whoever started it."""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgevision.errors import UnavailableError

LOCK = Path("/tmp/edgevision.lock")
_MAX_BYTES = 1000


@contextmanager
def machine_lock(task: str, path: Path = LOCK) -> Iterator[None]:
    """Hold the machine for ``task`` within the block. The kernel lets go when a process dies.

    Raises:
        UnavailableError: another process holds it; says who, what for and since when.
    """
    handle = _opened(path)
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise UnavailableError(
                f"{path} is no plain file of its own, so it cannot lock the machine.",
                hint="Ask whoever made it, and remove it.",
            )
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UnavailableError(
                f"This machine is in use: {_holder(handle)}.",
                hint="Two measurements at once would spoil each other. Try again later.",
            ) from None
        facts = {
            "user": getpass.getuser(),
            "task": task,
            "pid": os.getpid(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        }
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(facts).encode(), 0)
        yield
    finally:
        os.close(handle)


def _opened(path: Path) -> int:
    """The lock file, which every user may open: sticky folders forbid O_CREAT on another's file."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_NONBLOCK)
    except FileNotFoundError:
        pass
    except PermissionError:
        raise UnavailableError(
            f"{path} belongs to another user and may not be opened.",
            hint="Let it be opened by all: sudo chmod 666 " + str(path),
        ) from None
    try:
        handle = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return os.open(path, flags)
    os.fchmod(handle, 0o666)  # whatever the umask
    return handle


def _holder(handle: int) -> str:
    try:
        facts = json.loads(os.pread(handle, _MAX_BYTES, 0).decode())
        text = "{user} has run '{task}' since {since} (process {pid})".format(**facts)
        return "".join(letter for letter in text if letter.isprintable())  # anybody may write it
    except (ValueError, KeyError, TypeError, OSError):
        return "its lock is held by an unknown process"
