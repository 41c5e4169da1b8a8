"""The agent's loop: a request a line in, progress and one answer out."""

from __future__ import annotations

import json
import os
import platform
import sys
import threading
import time
import traceback
from pathlib import Path
from queue import Queue
from typing import IO, Any

from edgevision.agent.store import Store
from edgevision.errors import EdgeVisionError, StorageError

_CANCELLED = 130
_SILENT_SECONDS = 45.0  # a host tells every ten that it is there
_TOLD_SECONDS = 0.2


def serve(root: Path) -> None:
    """Answer requests until standard input ends.

    A request is ``{"task": name, "arguments": {…}}``; the answers to it are any number of
    ``{"progress": [phase, done, total]}`` and then ``{"result": …}``, or ``{"error": {"kind",
    "message", "hint"}}`` with the name of an EdgeVisionError, or ``{"defect": traceback}``.
    When the input ends in the middle of a task, whoever asked is gone: the process ends there.
    """
    out = _own_output()
    try:
        os.umask(0o077)
        store = Store(root, own=Path(sys.argv[0]))
    except OSError as error:
        _say(out, _told(error))
        return
    requests: Queue[str | None] = Queue()
    heard = [time.monotonic()]
    reader = threading.Thread(target=_read, args=(requests, store, heard), daemon=True)
    reader.start()
    threading.Thread(target=_watch, args=(store, heard), daemon=True).start()
    try:
        from edgevision import __version__

        facts = {
            "edgevision": __version__,
            "python": platform.python_version(),
            "pid": os.getpid(),
            "work": store.work.relative_to(root).as_posix(),
        }
        _say(out, {"hello": facts})
        while True:
            line = requests.get()
            if line is None:
                break
            answer = _answer(line, store, out)
            requests.task_done()
            _say(out, answer)
    finally:
        store.close()


def _own_output() -> IO[str]:
    """Standard output for answers alone: what vendors print goes to standard error."""
    sys.stdout.flush()
    own = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(own, "w", encoding="utf-8")


def _read(requests: Queue[str | None], store: Store, heard: list[float]) -> None:
    for line in sys.stdin:
        heard[0] = time.monotonic()
        if line.strip():
            requests.put(line)
    if requests.unfinished_tasks:  # a vendor's call cannot be interrupted otherwise
        store.close()
        os._exit(_CANCELLED)
    requests.put(None)


def _watch(store: Store, heard: list[float]) -> None:
    """End with a host that fell silent: its end of the connection may never be closed."""
    while time.monotonic() - heard[0] < _SILENT_SECONDS:
        time.sleep(1.0)
    store.close()
    os._exit(_CANCELLED)


def _answer(line: str, store: Store, out: IO[str]) -> dict[str, Any]:
    told: list[Any] = [None, 0.0]  # the last phase, and when it was told

    def progress(phase: str, done: int, total: int) -> None:
        now = time.monotonic()
        if phase != told[0] or done >= total or now - told[1] >= _TOLD_SECONDS:
            told[:] = phase, now
            _say(out, {"progress": [phase, done, total]})

    try:
        from edgevision.agent.tasks import TASKS

        request = json.loads(line)
        return {"result": TASKS[request["task"]](store, progress, **request["arguments"])}
    except (EdgeVisionError, OSError, MemoryError) as error:
        return _told(error)
    except Exception:  # noqa: BLE001 (told to whoever is connected, whatever it is)
        return {"defect": traceback.format_exc()}


def _told(error: BaseException) -> dict[str, Any]:
    if isinstance(error, OSError):
        error = StorageError(f"{error.strerror or error}: {error.filename or 'on the device'}.")
    if isinstance(error, MemoryError):
        error = StorageError("The device has not enough memory for this.")
    assert isinstance(error, EdgeVisionError)
    told = {"kind": type(error).__name__, "message": error.message, "hint": error.hint}
    return {"error": told}


def _say(out: IO[str], message: dict[str, Any]) -> None:
    try:
        out.write(json.dumps(message) + "\n")
        out.flush()
    except BrokenPipeError:  # nobody listens; the reader of requests ends the process
        pass
