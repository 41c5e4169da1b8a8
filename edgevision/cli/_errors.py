"""One place that turns exceptions into a message and an exit code."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Callable

from rich.console import Console
from rich.markup import escape

from edgevision.errors import EdgeVisionError, StorageError
from edgevision.lazy import missing_extra

_STORAGE = {
    errno.ENOSPC: "No space is left on the disk",
    errno.EDQUOT: "The disk quota is used up",
    errno.EACCES: "Permission denied",
    errno.EROFS: "The file system is read-only",
    errno.ENOTDIR: "A file is where a folder is needed",
    errno.EEXIST: "A file is where a folder is needed",
}


def from_os_error(error: OSError) -> StorageError | None:
    """A full, forbidden or wrong place as our own error, None for any other ``OSError``."""
    if error.errno not in _STORAGE:
        return None
    where = f": {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return StorageError(
            f"{_STORAGE[error.errno]}{where}.",
            hint="Choose another place, or move the file away.",
        )
    return StorageError(
        f"{_STORAGE[error.errno]}{where}.",
        hint="Nothing half-written was kept. Free some space or choose another folder, "
        "then run the same command again: finished stages are reused.",
    )


def run_guarded(command: Callable[[], object]) -> int:
    """Run ``command`` and return the process's exit code; a defect keeps its traceback."""
    console = Console(stderr=True)
    try:
        command()
    except EdgeVisionError as error:
        return _tell(console, error)
    except KeyboardInterrupt:
        console.print("Interrupted. Run the same command again to carry on.")
        return 130
    except ModuleNotFoundError as error:
        missing = missing_extra(error)
        return _tell(console, missing) if missing is not None else _defect(console)
    except OSError as error:
        known = from_os_error(error)
        if known is not None:
            return _tell(console, known)
        return _defect(console)
    except Exception:  # noqa: BLE001 - the last resort: anything else is our defect
        return _defect(console)
    return 0


def _tell(console: Console, error: EdgeVisionError) -> int:
    console.print(f"[bold red]Error:[/] {escape(error.message)}", soft_wrap=True)
    if error.hint:
        console.print(escape(error.hint), soft_wrap=True)
    return error.exit_code


def _defect(console: Console) -> int:
    traceback.print_exc(file=sys.stderr)
    console.print(
        "[bold red]This is a defect in EdgeVision.[/] Please report it with the lines above."
    )
    return 1
