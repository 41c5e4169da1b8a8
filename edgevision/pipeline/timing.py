"""The time of a job's network at other widths: measured once, predicted and confirmed later."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgevision.backends import get_backend
from edgevision.data.base import some_images
from edgevision.errors import ModelError
from edgevision.files import write_json
from edgevision.pipeline.job import Job
from edgevision.pipeline.stages.export import INPUT_NAME, export_module
from edgevision.recipe import VerifySection

if TYPE_CHECKING:
    import torch

    from edgevision.latency import LatencyModel, WidthShapes
    from edgevision.latency.measure import Prepare
    from edgevision.pruning.timed import TimeGoal

CLOSE = 0.05
CHOSEN = "widths.json"
FLOAT, TABLE, TIMES = "float.onnx", "calibration.json", "latency.json"
NETWORKS = 64
SECONDS = 40.0
CALIBRATION_IMAGES = 16  # times hardly depend on ranges
CONFIRM_SECONDS = 4.0


def bounds_of(job: Job) -> VerifySection:
    """What must be proven: who prunes to a time wants that time, give or take ``CLOSE``."""
    bounds = job.recipe.verify
    if job.prune is None or not job.prune.is_timed:
        return bounds
    name, asked = job.prune.target
    if getattr(bounds, name) is not None:
        return bounds
    bound = asked * (1 - CLOSE if name == "speedup" else 1 + CLOSE)
    return bounds.model_copy(update={name: bound})


def quantizes(job: Job) -> bool:
    """Whether what ships is INT8."""
    return job.recipe.quantize is not None and job.target.scheme is not None


def measure_job(job: Job, module: torch.nn.Module, work: Path) -> None:
    """Measure ``module`` at many widths; writes the float graph, its table and the times."""
    from edgevision.latency import fit_latency, measure_widths, sample_widths
    from edgevision.quantization import calibrate

    job.progress("exporting", 0, 1, "")
    export_module(job, module, work / FLOAT)
    job.progress("exporting", 1, 1, "")
    images = some_images(job.data.train, job.preprocessing, CALIBRATION_IMAGES)
    calibrate(work / FLOAT, [images]).save(work / TABLE)
    shapes, allowed = _shapes(job, module, work / FLOAT)
    rows = sample_widths(list(allowed.values()), NETWORKS, job.recipe.seed)
    times = measure_widths(
        shapes,
        rows,
        get_backend(job.target.backend),
        {INPUT_NAME: images[:1]},
        work,
        prepare=_emitter(job, work),
        threads=job.recipe.verify.threads,
        seconds=SECONDS,
        seed=job.recipe.seed,
        progress=lambda phase, done, total: job.progress(phase, done, total, ""),
    )
    model = fit_latency(shapes, rows, times)
    write_json(
        work / TIMES,
        {
            "groups": list(allowed),
            "allowed": [list(widths) for widths in allowed.values()],
            "kept": rows.tolist(),
            "milliseconds": times.tolist(),
            "precision": "int8" if quantizes(job) else "fp32",
            "tile": model.tile,
            "error": model.error,
            "worst_error": model.worst,
        },
    )


def time_goal(job: Job, module: torch.nn.Module, work: Path) -> TimeGoal:
    """What the recipe asks for, predicted from the profile stage's times and confirmed here.

    Graphs that are timed, and the widths chosen by an interrupted run, are in ``work``.
    """
    from edgevision.pruning.timed import TimeGoal

    assert job.prune is not None
    model, folder = latency_model(job, module), job.done("profile").folder
    name, asked = job.prune.target
    images = some_images(job.data.train, job.preprocessing, 1)
    prepare = _emitter(job, folder)
    whole_graph = _candidate(model.shapes, {}, prepare, work)
    fp32, whole = _medians(job, [folder / FLOAT, whole_graph], images)
    # Predictions are of the least times, limits of medians: brought together on the whole network.
    scale = whole / model.of({})
    limit = fp32 / asked if name == "speedup" else asked

    def measure(kept: Mapping[str, int]) -> float:
        candidate = _candidate(model.shapes, kept, prepare, work)
        again, taken = _medians(job, [folder / FLOAT, candidate], images)
        return taken * (fp32 / again if name == "speedup" else 1.0)

    return TimeGoal(
        limit,
        model.shapes.groups,
        lambda rows: scale * model.milliseconds(rows),
        measure,
        _Chosen(work / CHOSEN),
    )


class _Chosen(dict[str, dict[str, int]]):
    """Widths by step, on disk as soon as they are chosen."""

    def __init__(self, path: Path) -> None:
        super().__init__(json.loads(path.read_bytes()) if path.exists() else {})
        self._path = path

    def __setitem__(self, step: str, widths: dict[str, int]) -> None:
        super().__setitem__(step, widths)
        write_json(self._path, dict(self))


def latency_model(job: Job, module: torch.nn.Module) -> LatencyModel:
    """Fitted to what the profile stage measured."""
    from edgevision.latency import fit_latency

    done = job.done("profile")
    stored = done.json(TIMES)
    shapes, _ = _shapes(job, module, done.path(FLOAT))
    if list(shapes.groups) != stored["groups"]:
        raise ModelError("The network's groups are not those whose times were measured.")
    return fit_latency(shapes, np.array(stored["kept"]), np.array(stored["milliseconds"]))


def _shapes(
    job: Job, module: torch.nn.Module, path: Path
) -> tuple[WidthShapes, dict[str, tuple[int, ...]]]:
    from edgevision.export import load_onnx
    from edgevision.latency import WidthShapes
    from edgevision.pruning.allowed import allowed_widths

    assert job.prune is not None
    cost, allowed = allowed_widths(
        module,
        example_shape=(1, *job.preprocessing.input_shape),
        config=job.prune,
        ignored=job.task.head_layers(module, len(job.data.labels)),
        round_to=job.target.round_to,
    )
    bounds = {name: (widths[0], widths[-1]) for name, widths in allowed.items()}
    return WidthShapes(load_onnx(path), cost, bounds), allowed


def _emitter(job: Job, folder: Path) -> Prepare | None:
    """From a narrowed float file to the graph that ships; None where that is the float file."""
    from edgevision.latency import quantize_narrowed
    from edgevision.quantization import CalibrationTable

    if not quantizes(job):
        return None
    assert job.target.scheme is not None
    table = CalibrationTable.load(folder / TABLE)
    return partial(quantize_narrowed, table, job.target.scheme)


def _candidate(
    shapes: WidthShapes, kept: Mapping[str, int], prepare: Prepare | None, work: Path
) -> Path:
    """The network at these widths as it would ship, in ``work``."""
    from edgevision.export import save_onnx

    narrow, path = work / "candidate.float.onnx", work / "candidate.onnx"
    save_onnx(shapes.narrowed(kept), narrow)
    if prepare is None:
        return narrow
    prepare(narrow, path)
    return path


def _medians(job: Job, paths: list[Path], images: npt.NDArray[np.float32]) -> list[float]:
    """Median milliseconds of ONNX files, measured interleaved."""
    from edgevision.benchmark import BenchConfig, compare, opened_graphs

    backend, threads = get_backend(job.target.backend), job.recipe.verify.threads
    graphs = {path.name: path for path in paths}
    config = BenchConfig(seconds=CONFIRM_SECONDS, seed=job.recipe.seed)
    with opened_graphs(graphs, backend, {INPUT_NAME: images}, threads) as runs:
        found = compare(runs, baseline=paths[0].name, config=config)
    return [found.runs[path.name].latency_p50_ms for path in paths]
