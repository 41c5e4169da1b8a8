"""Times of a network at many widths, taken interleaved on the machine that will run it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgevision.backends.base import Artifact, Backend
from edgevision.benchmark import BenchConfig
from edgevision.export.loading import save_onnx
from edgevision.files import sha256_file
from edgevision.latency.shapes import Float64, Ints, WidthShapes
from edgevision.machine import Machine, ThisMachine
from edgevision.quantization import CalibrationTable, emit

_AT_ONCE = 1 << 30  # bytes of graphs that are open together
Progress = Callable[[str, int, int], None]
Prepare = Callable[[Path, Path], None]


def measure_widths(
    shapes: WidthShapes,
    kept: Ints,
    backend: Backend,
    feeds: Mapping[str, npt.NDArray[Any]],
    folder: Path,
    *,
    prepare: Prepare | None = None,
    threads: int | None = None,
    seconds: float = 30.0,
    seed: int = 0,
    machine: Machine | None = None,
    progress: Progress = lambda phase, done, total: None,
) -> Float64:
    """Milliseconds of the network at (B, groups) widths: float64 (B,), the least of each.

    All are timed in turns in random order, so that drift and load fall on all alike; what is
    least in many turns is what the machine takes when nothing else disturbs it.

    Args:
        backend: one that opens ONNX files as they are.
        feeds: the input that is timed, by name.
        folder: for the graphs; they are removed again.
        prepare: from a narrowed float file to the one that is timed, as quantization does.
        threads: of the backend, None for its own choice.
        seconds: that are measured altogether.
        machine: to measure on, None for this one.
        progress: called with (phase, done, total).

    Raises:
        ModelError: a graph cannot be narrowed, prepared or run.
    """
    paths: list[Path] = []
    try:
        for index, row in enumerate(kept):
            progress("narrowing networks", index, len(kept))
            paths.append(_made(shapes, row, folder, index, prepare))
        progress("narrowing networks", len(kept), len(kept))
        times: list[float] = []
        parts = _parts(paths)
        for number, part in enumerate(parts):
            share = seconds * len(part) / len(paths)
            told = partial(_told, progress, number, len(parts))
            config = BenchConfig(seconds=share, relative_width=0.0, seed=seed)
            taken = (machine or ThisMachine()).measure(
                {path.name: (Artifact(backend.name, path), feeds) for path in part},
                threads=threads,
                config=config,
                progress=told,
            )
            times += [least_ms(taken.samples.ns[path.name]) for path in part]
        return np.array(times)
    finally:
        for path in paths:
            path.unlink(missing_ok=True)


def quantize_narrowed(table: CalibrationTable, scheme: str, narrow: Path, path: Path) -> None:
    """Emit the ``narrow`` float graph with the ranges of the whole one, which ``table`` holds.

    Raises:
        ModelError: as ``emit``.
    """
    emit(narrow, replace(table, onnx_sha256=sha256_file(narrow)), scheme, path)


def _told(progress: Progress, part: int, parts: int, phase: str, share: float) -> None:
    progress("timing networks", round(100 * (part + share) / parts), 100)


def _made(
    shapes: WidthShapes, row: Ints, folder: Path, index: int, prepare: Prepare | None
) -> Path:
    model = shapes.narrowed(dict(zip(shapes.groups, row.tolist(), strict=True)))
    path = folder / f"narrow-{index}.onnx"
    save_onnx(model, path)
    if prepare is None:
        return path
    try:
        prepared = folder / f"prepared-{index}.onnx"
        prepare(path, prepared)
    finally:
        path.unlink()
    return prepared


def _parts(paths: Sequence[Path]) -> list[list[Path]]:
    parts: list[list[Path]] = [[]]
    size = 0
    for path in paths:
        size += path.stat().st_size
        if parts[-1] and size > _AT_ONCE:
            parts.append([])
            size = path.stat().st_size
        parts[-1].append(path)
    return parts


def least_ms(ns: npt.NDArray[np.int64]) -> float:
    """The least of (n,) nanoseconds, in milliseconds above zero."""
    return max(1.0, float(ns.min())) / 1e6
