"""Files of /proc and /sys, read so that nothing hangs, grows or raises. Standard library only."""

from __future__ import annotations

import os
import re
from pathlib import Path

ROOT = Path("/")
_NONBLOCKING = getattr(os, "O_NONBLOCK", 0)
_NUMBER = re.compile(r"[+-]?[0-9]{1,18}")


def text(path: Path, limit: int = 1 << 16) -> str:
    """The first ``limit`` bytes of a file as text; empty where it cannot be read.

    Bytes that are no UTF-8 become replacement characters. A pipe that nobody writes to does not
    block.
    """
    try:
        handle = os.open(path, os.O_RDONLY | _NONBLOCKING)
    except (OSError, ValueError):
        return ""
    try:
        parts = []
        while limit > 0:
            part = os.read(handle, limit)
            if not part:
                break
            parts.append(part)
            limit -= len(part)
        return b"".join(parts).decode("utf-8", errors="replace")
    except OSError:
        return ""
    finally:
        os.close(handle)


def words(path: Path) -> list[str]:
    """The printable strings of a file that separates them by NUL or line ends."""
    parts = (part.strip() for part in re.split(r"[\0\n]", text(path, 4096)))
    return [part for part in parts if part.isprintable() and part and "\ufffd" not in part]


def word(path: Path) -> str | None:
    """The only string of a file, at most 128 characters; None where there is none or are several.

    Labels, names and governors are such files.
    """
    found = words(path)
    return found[0] if len(found) == 1 and len(found[0]) <= 128 else None


def integer(path: Path) -> int | None:
    """The whole number that is all a file holds; None for anything else."""
    content = text(path, 64).strip("\0 \n")
    return int(content) if _NUMBER.fullmatch(content) else None


def children(folder: Path, prefix: str = "") -> list[Path]:
    """Entries of ``folder`` whose names begin so, 2 before 10; empty where it cannot be listed."""
    try:
        found = [path for path in folder.iterdir() if path.name.startswith(prefix)]
    except (OSError, ValueError):
        return []
    return sorted(found, key=lambda path: _natural(path.name))


def _natural(name: str) -> list[tuple[int, str]]:
    return [
        (int(part), "") if re.fullmatch("[0-9]{1,18}", part) else (-1, part)
        for part in re.split(r"([0-9]+)", name)
    ]
