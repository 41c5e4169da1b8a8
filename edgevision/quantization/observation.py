"""Running a model image by image while observers watch its tensors, here or in other processes.

ONNX Runtime computes each image on one thread: how it splits a sum over threads would change the
last bits. Several threads, or processes, take an image each instead. What each has seen is merged,
and since observers merge exactly, neither their number nor who took which image leaves a trace.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from edgevision.errors import EdgeVisionError, ModelError
from edgevision.quantization.calibrators import Observer

Feeds = dict[str, npt.NDArray[Any]]
Observers = dict[str, Observer]

# The parent's sys.path, so that the child finds what the parent finds. The -c adds the current
# folder in front, where a numpy.py may lie.
_CHILD = (
    "import sys; sys.path[:] = sys.argv[1:]; "
    "from edgevision.quantization.observation import serve; serve()"
)


@dataclass(frozen=True)
class Probe:
    """A model whose inner tensors are its outputs, and who watches them.

    Attributes:
        model: serialized ONNX.
        inner: tensors to observe that the model computes, its only outputs.
        sources: inputs to observe.
        observer: class of the observers, one a tensor.
    """

    model: bytes
    inner: tuple[str, ...]
    sources: tuple[str, ...]
    observer: type[Observer]


class Lane(ABC):
    """Takes one image at a time; several lanes work side by side."""

    @abstractmethod
    def observe(self, feeds: Feeds) -> None:
        """Run the model on one image, arrays by input name, and watch its tensors.

        Raises:
            ModelError: the model fails on it, or a tensor holds NaN or infinite values.
        """

    @abstractmethod
    def finish(self) -> Observers:
        """What was seen, by tensor name; no more images come."""

    def close(self) -> None:
        """Give back what the lane holds, whatever state it is in."""
        return


class LocalLane(Lane):
    """A lane in this process; lanes of one session share it."""

    def __init__(self, probe: Probe, session: Any) -> None:
        self._probe = probe
        self._session = session
        names = (*probe.sources, *probe.inner)
        self._observers: Observers = {name: probe.observer() for name in names}

    def observe(self, feeds: Feeds) -> None:
        """See ``Lane``."""
        try:
            # Without a tensor to ask for, only inputs are observed; it refuses to run for nothing.
            values = self._session.run(self._probe.inner, feeds) if self._probe.inner else []
        except Exception as error:
            raise ModelError(f"ONNX Runtime failed while calibrating: {error}") from error
        for name in self._probe.sources:
            self._watch(name, feeds[name])
        # In the graph's order, so that the first tensor that goes wrong is the one named.
        for name, value in zip(self._probe.inner, values, strict=True):
            self._watch(name, value)

    def _watch(self, name: str, value: npt.NDArray[Any]) -> None:
        if value.dtype != np.float32:
            raise ModelError(f"Tensor '{name}': expected float32 to calibrate, got {value.dtype}.")
        try:
            self._observers[name].observe(value)
        except ModelError as error:
            raise ModelError(f"Tensor '{name}': {error.message}") from error

    def finish(self) -> Observers:
        """See ``Lane``."""
        return self._observers


class ProcessLane(Lane):
    """A lane in a process of its own, fed through a pipe.

    The process is a fresh interpreter, so nothing of the caller's is imported again and a script
    needs no ``__main__`` guard. It ends when its pipe closes, also when this process is killed.
    """

    def __init__(self, probe: Probe) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, *map(os.path.abspath, sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        # Sent with the first image: until it has started, a process takes no more than its pipe
        # holds, and they shall start side by side.
        self._probe: Probe | None = probe

    def observe(self, feeds: Feeds) -> None:
        """See ``Lane``."""
        self._send(feeds)
        self._receive()

    def finish(self) -> Observers:
        """See ``Lane``."""
        self._send(None)
        observers: Observers = self._receive()
        return observers

    def close(self) -> None:
        """End the process and wait for it."""
        self._process.kill()
        # Not communicate(): a thread may still be reading; it meets the pipe's end.
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):  # unsent rest of what the process did not take
                assert pipe is not None
                pipe.close()

    def _send(self, message: Any) -> None:
        assert self._process.stdin is not None
        # A process that is gone has left its error, or nothing, for _receive to find.
        with suppress(BrokenPipeError):
            for part in (message,) if self._probe is None else (self._probe, message):
                pickle.dump(part, self._process.stdin, pickle.HIGHEST_PROTOCOL)
            self._process.stdin.flush()
        self._probe = None

    def _receive(self) -> Any:
        assert self._process.stdout is not None
        try:
            # A pickle, but of our own process: nobody else writes into this pipe.
            answer = pickle.load(self._process.stdout)
        except (EOFError, pickle.UnpicklingError) as error:
            raise EdgeVisionError(
                f"A calibration process ended before its time, exit status {self._status()}.",
                hint="Killed for want of memory? Calibrate with fewer processes.",
            ) from error
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _status(self) -> int:
        try:
            return self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:  # its pipe is closed or spoilt, and yet it lives
            self._process.kill()
            return self._process.wait()


def open_lanes(probe: Probe, *, processes: int, threads: int) -> list[Lane]:
    """One lane a process, or with one process one a thread of this one.

    Raises:
        ModelError: ONNX Runtime cannot run the model.
    """
    session = _session(probe)  # also with processes: a model that cannot run is found here
    if processes == 1:
        return [LocalLane(probe, session) for _ in range(threads)]
    del session
    lanes: list[Lane] = []
    try:
        for _ in range(processes):
            lanes.append(ProcessLane(probe))
    except BaseException:
        close_lanes(lanes)
        raise
    return lanes


def close_lanes(lanes: Iterable[Lane]) -> None:
    """Close them all."""
    for lane in lanes:
        lane.close()


def observe(lanes: list[Lane], images: Iterable[Feeds], done: Callable[[], None]) -> Observers:
    """Hand ``images`` out to the lanes, one ahead of what they work on, and merge what they saw.

    The lanes are closed when it returns or raises.

    Args:
        lanes: from ``open_lanes``.
        images: read in this thread, in order.
        done: called in this thread after each image, in order.

    Raises:
        EdgeVisionError: from reading an image, or of the first image that failed.
    """
    idle: SimpleQueue[Lane] = SimpleQueue()
    for lane in lanes:
        idle.put(lane)

    def take(feeds: Feeds) -> None:
        lane = idle.get()
        try:
            lane.observe(feeds)
        finally:
            idle.put(lane)

    pool = ThreadPoolExecutor(len(lanes))
    pending: deque[Future[None]] = deque()
    try:
        for feeds in images:
            if len(pending) > len(lanes):
                pending.popleft().result()
                done()
            pending.append(pool.submit(take, feeds))
        while pending:
            pending.popleft().result()
            done()
        return _merged([lane.finish() for lane in lanes])
    finally:
        # In this order: a thread that waits for a process comes back when the process is gone.
        close_lanes(lanes)
        pool.shutdown(cancel_futures=True)


def _merged(parts: list[Mapping[str, Observer]]) -> Observers:
    first, *others = parts
    for other in others:
        for name, observer in first.items():
            observer.merge(other[name])
    return dict(first)


def _session(probe: Probe) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    # Plans memory for each input shape it meets and keeps the plan: no bound where shapes vary.
    options.enable_mem_pattern = False
    try:
        return onnxruntime.InferenceSession(
            probe.model, options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise ModelError(f"ONNX Runtime cannot run the model: {error}") from error


def serve() -> None:
    """The other end of a ``ProcessLane``: reads from standard input until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too and closes the pipe
    source = sys.stdin.buffer
    # Whatever a library prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with suppress(BrokenPipeError, EOFError):
        _serve(source, answers)


def _serve(source: BinaryIO, answers: BinaryIO) -> None:
    def answer(message: Any) -> None:
        pickle.dump(message, answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()

    try:
        probe: Probe = pickle.load(source)
        lane = LocalLane(probe, _session(probe))
        while (feeds := pickle.load(source)) is not None:
            lane.observe(feeds)
            answer(None)
        answer(lane.finish())
    except EdgeVisionError as error:
        answer(error)
