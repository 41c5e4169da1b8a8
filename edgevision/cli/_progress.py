"""Progress in the terminal: one line a phase, with a bar, the time and a note."""

from __future__ import annotations

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


class Phases:
    """A context manager to pass as ``progress``: call it with (phase, done, total, note).

    On a terminal the running phase has a live bar; in a log file each phase is one line when it
    ends.
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

    def __call__(self, phase: str, done: int, total: int, note: str = "") -> None:
        """Show that ``done`` of ``total`` steps of ``phase`` are done."""
        if phase != self._phase:
            self._phase = phase
            self._task = self._bars.add_task(phase, total=total, note=note)
        if self._task is not None:
            self._bars.update(self._task, completed=done, total=total, note=note)
        if not self._console.is_terminal and done >= total and phase not in self._told:
            self._told.add(phase)
            self._console.print(f"{phase}: done {note}".rstrip(), highlight=False)

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
