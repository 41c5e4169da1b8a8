"""Progress of a build through the vendor's progress monitor, where it has one (after 8.6)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_PARTS = 1000  # of a whole build, in reports of progress


class Watch:
    """Reports to ``progress``; what that raises stops the build and is kept in ``stopped``.

    An exception must not cross the vendor's frames, Ctrl-C in a callback included. Keep this object
    until the build is over: the vendor's config holds no reference to the monitor.
    """

    def __init__(
        self, trt: Any, config: Any, progress: Callable[[str, int, int], None] | None
    ) -> None:
        self.stopped: BaseException | None = None
        self._running: dict[str, list[int]] = {}  # phase → steps and those done, outermost first
        self._told = -1
        self._progress = progress
        if progress is not None and hasattr(trt, "IProgressMonitor"):
            self._monitor = _make_monitor(trt, self)
            config.progress_monitor = self._monitor

    def start(self, phase: str, steps: int) -> None:
        """A phase begins, inside those that run."""
        self._running[phase] = [max(steps, 1), 0]
        self._tell()

    def step(self, phase: str, done: int) -> bool:
        """``done`` steps of a phase are done; True to carry on."""
        if phase in self._running:
            self._running[phase][1] = done
        self._tell()
        return self.stopped is None

    def finish(self, phase: str) -> None:
        """A phase is over."""
        self._running.pop(phase, None)
        if not self._running:
            self._tell()

    def _tell(self) -> None:
        """Phases nest: a phase's steps share out one step of the phase around it."""
        value, share = (0.0 if self._running else 1.0), 1.0
        for steps, done in self._running.values():
            value += share * done / steps
            share /= steps
        parts = int(_PARTS * value)
        if self._progress is None or self.stopped is not None or parts <= self._told:
            return
        self._told = parts
        try:
            self._progress("engine", parts, _PARTS)
        except BaseException as error:  # noqa: BLE001 - raised again after the build
            self.stopped = error


def _make_monitor(trt: Any, watch: Watch) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            watch.start(phase, steps)

        def step_complete(self, phase: str, step: int) -> bool:
            return watch.step(phase, step + 1)

        def phase_finish(self, phase: str) -> None:
            watch.finish(phase)

    return Monitor()
