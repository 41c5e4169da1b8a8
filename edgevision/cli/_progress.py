"""Progress in the terminal: one line a phase, with a bar, the time and a note."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_LOG_SECONDS = 30.0


class Phases:
    """A context manager to pass as ``progress``: call it with (phase, done, total, note).

    On a terminal the running phase has a live bar; in a log file a phase is a line when it ends,
    and one every half minute before.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description:<38}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._phase: str | None = None
        self._task: TaskID | None = None
        self._told: set[str] = set()
        self._last = time.monotonic()

    def __call__(self, phase: str, done: int, total: int, note: str = "") -> None:
        """Show that ``done`` of ``total`` steps of ``phase`` are done."""
        if phase != self._phase:
            self._phase = phase
            self._task = self._bars.add_task(phase, total=total, note=note)
        if self._task is not None:
            self._bars.update(self._task, completed=done, total=total, note=note)
        if not self._console.is_terminal and phase not in self._told:
            self._log(phase, done, total, note)

    def _log(self, phase: str, done: int, total: int, note: str) -> None:
        if done >= total:
            self._told.add(phase)
        elif time.monotonic() - self._last < _LOG_SECONDS:
            return
        self._last = time.monotonic()
        count = "done" if done >= total else f"{done} of {total}"
        self._console.print(f"{phase}: {count}  {note}".rstrip(), highlight=False, soft_wrap=True)

    def __enter__(self) -> Phases:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()
