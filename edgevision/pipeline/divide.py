"""The fastest division of a network into INT8 and float: several are emitted and measured whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from edgevision.backends.base import Backend

if TYPE_CHECKING:
    from edgevision.benchmark import Comparison
    from edgevision.quantization import CalibrationTable, EmitReport

SECONDS = 8.0  # at most, for all divisions and once more for the finalists
FINALISTS = 3
# A division must beat INT8 throughout by this much: less may be this run's luck.
WORTH = 1.02
FLOAT, INT8 = "float", "int8"


@dataclass(frozen=True)
class Found:
    """What was tried and taken.

    Attributes:
        path: the fastest division's graph, None where INT8 throughout is as fast, or float faster.
        report: of its emission.
        tried: a row for each graph measured: name, ``latency_p50_ms``, ``latency_min_ms``, and how
            many nodes are on integers.
    """

    path: Path | None
    report: EmitReport | None
    tried: tuple[dict[str, Any], ...]


def find_division(
    float_path: Path,
    int8_path: Path,
    table: CalibrationTable,
    scheme: str,
    backend: Backend,
    feeds: Mapping[str, npt.NDArray[Any]],
    folder: Path,
    *,
    keep_float: Mapping[str, str] = MappingProxyType({}),
    threads: int | None = None,
    seed: int = 0,
    seconds: float = SECONDS,
    progress: Callable[[str, int, int], None] = lambda phase, done, total: None,
) -> Found:
    """Emit every division worth trying into ``folder``, measure them, take the fastest.

    Args:
        int8_path: ``float_path`` emitted by ``scheme``, all but ``keep_float``.
        backend: one whose kernels can be timed (``times_layers``).
        feeds: the input that is timed, by name.
        keep_float: nodes that stay in float in every division, each with why.
        threads: of the backend, None for its own choice.
        seconds: at most this long all are measured, and the fastest few once more, so that what
            is taken is not what one noisy run favoured.
        progress: called with (phase, done, total).

    Raises:
        ModelError: the backend cannot run one of the graphs.
    """
    from edgevision.quantization import emit
    from edgevision.quantization.mixed import divisions
    from edgevision.quantization.timing import kernel_timer

    progress("timing layers", 0, 1)
    timer = kernel_timer(backend, threads)
    found = divisions(float_path, int8_path, scheme, feeds, timer, keep_float=keep_float)
    progress("timing layers", 1, 1)
    if not found:
        return Found(None, None, ())
    paths, reports = {FLOAT: float_path, INT8: int8_path}, {}
    for number, division in enumerate(found):
        progress("emitting divisions", number, len(found))
        path = folder / f"division-{number}.onnx"
        reports[path.stem] = emit(float_path, table, scheme, path, keep_float=division.keep_float)
        paths[path.stem] = path
    progress("emitting divisions", len(found), len(found))
    heats = [_measure(paths, backend, feeds, threads, seed, seconds, progress)]
    if len(found) > FINALISTS:
        last = {name: paths[name] for name in (FLOAT, INT8, *ranked(heats[0])[:FINALISTS])}
        heats.append(_measure(last, backend, feeds, threads, seed + 1, seconds, progress))
    chosen = fastest(heats[-1])
    runs = {name: stats for heat in heats for name, stats in heat.runs.items()}
    tried = tuple(
        {
            "name": name,
            "latency_p50_ms": stats.latency_p50_ms,
            "latency_min_ms": stats.latency_min_ms,
            "int8_nodes": reports[name].counts().get("int8", 0) if name in reports else None,
        }
        for name, stats in runs.items()
    )
    if chosen is None:
        return Found(None, None, tried)
    return Found(paths[chosen], reports[chosen], tried)


def ranked(comparison: Comparison) -> list[str]:
    """The divisions, the fastest first."""
    divisions = comparison.runs.keys() - {FLOAT, INT8}
    return sorted(divisions, key=lambda name: comparison.runs[name].latency_p50_ms)


def fastest(comparison: Comparison) -> str | None:
    """The fastest division, None where INT8 throughout is as fast or float faster than all."""
    best = min(comparison.runs, key=lambda name: comparison.runs[name].latency_p50_ms)
    if best in (FLOAT, INT8):
        return None
    ratio = comparison.ratios[best]
    return best if ratio.value >= WORTH and ratio.low > 1.0 else None


def _measure(
    paths: Mapping[str, Path],
    backend: Backend,
    feeds: Mapping[str, npt.NDArray[Any]],
    threads: int | None,
    seed: int,
    seconds: float,
    progress: Callable[[str, int, int], None],
) -> Comparison:
    from edgevision.benchmark import BenchConfig, compare, opened_graphs

    with opened_graphs(paths, backend, feeds, threads) as runs:
        return compare(
            runs,
            baseline=INT8,
            config=BenchConfig(seconds=seconds, seed=seed),
            progress=lambda phase, share: progress(f"divisions: {phase}", round(share * 100), 100),
        )
