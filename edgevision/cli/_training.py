"""Training's progress in the terminal: epoch, step, loss, accuracy, time left."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from edgevision.train import Progress as Standing


class TrainingBar:
    """A context manager to pass as ``progress`` to ``edgevision.train.job.train``.

    On a terminal one live bar; in a log file one line an epoch.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bars.add_task("", total=None, epoch="-", note="loading")

    def __call__(self, at: Standing) -> None:
        """Show where the run stands."""
        metric = "" if at.metric is None else f"accuracy {at.metric:.2f} %  "
        note = f"loss {at.loss:.4f}  {metric}{_clock(at.seconds_left)} left"
        epoch = f"{at.epoch + 1}/{at.epochs}"
        self._bars.update(self._task, completed=at.step, total=at.steps, epoch=epoch, note=note)
        if not self._console.is_terminal and at.step == at.steps:
            self._console.print(f"epoch {epoch}  {note}", highlight=False, soft_wrap=True)

    def __enter__(self) -> TrainingBar:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
