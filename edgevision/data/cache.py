"""The cache folder, and the lock of what is fetched into it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_folder(cache: Path | None = None) -> Path:
    """Where fetched data lie: ``cache``, else ``EDGEVISION_CACHE``, else the user's cache."""
    if cache is not None:
        return cache
    if chosen := os.environ.get("EDGEVISION_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "edgevision"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "edgevision"
    general = os.environ.get("XDG_CACHE_HOME")
    return (Path(general) if general else Path.home() / ".cache") / "edgevision"


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Wait until no other process is in the block of the same ``path``; a killed one is not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        if sys.platform != "win32":
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
