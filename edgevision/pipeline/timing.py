"""The time of a job's network at other widths: measured once, predicted and confirmed later."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgevision.backends import get_backend
from edgevision.data.base import some_images
from edgevision.errors import ModelError
from edgevision.files import write_json
from edgevision.pipeline.job import Job
from edgevision.pipeline.network_times import FLOAT, TIMES, Network, network_times
from edgevision.pipeline.stages.export import INPUT_NAME
from edgevision.recipe import VerifySection

if TYPE_CHECKING:
    import torch

    from edgevision.latency import LatencyModel, WidthShapes, WidthTimes
    from edgevision.latency.measure import Prepare
    from edgevision.pruning.timed import TimeGoal

CLOSE = 0.05
CHOSEN = "widths.json"
BLOCKS = "blocks.json"
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
    network_times(
        _network(job, module),
        some_images(job.data.train, job.preprocessing, CALIBRATION_IMAGES),
        work,
        networks=NETWORKS,
        seconds=SECONDS,
        seed=job.recipe.seed,
        progress=job.progress,
    )


def time_goal(job: Job, model: LatencyModel, module: torch.nn.Module, work: Path) -> TimeGoal:
    """What the recipe asks for, predicted from measured times and confirmed here.

    Graphs that are timed, and the widths chosen by an interrupted run, are in ``work``.

    Args:
        model: of ``module``, as :func:`latency_model` gives it.
        module: the network without the blocks that went.
    """
    from edgevision.pruning.timed import TimeGoal

    assert job.prune is not None
    folder = job.done("profile").folder
    name, asked = job.prune.target
    images = some_images(job.data.train, job.preprocessing, 1)
    prepare = _network(job, module).emitter(_profiled(job))
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
        StoredWidths(work / CHOSEN),
    )


class StoredWidths(dict[str, dict[str, int]]):
    """Widths by step in the JSON file ``path``, written as soon as they are chosen."""

    def __init__(self, path: Path) -> None:
        super().__init__(json.loads(path.read_bytes()) if path.exists() else {})
        self._path = path

    def __setitem__(self, step: str, widths: dict[str, int]) -> None:
        super().__setitem__(step, widths)
        write_json(self._path, dict(self))


def latency_model(job: Job, module: torch.nn.Module) -> LatencyModel:
    """Fitted to what was measured of ``module``, the network without the blocks that went."""
    times = measured_times(job)
    shapes, _ = _network(job, module).shapes(_profiled(job) / FLOAT)
    if shapes.groups != times.groups:
        raise ModelError("The network's groups are not those whose times were measured.")
    return times.fit(shapes)


def measured_times(job: Job) -> WidthTimes:
    """Of the network without the blocks that went, else of the whole one."""
    from edgevision.latency import WidthTimes

    return WidthTimes.model_validate_json((_profiled(job) / TIMES).read_bytes())


def removed_blocks(job: Job) -> list[str]:
    """Names of the blocks that the shorten stage took out; none where it was not asked for."""
    if "shorten" not in job.results:
        return []
    gone: list[str] = job.done("shorten").json(BLOCKS)["gone"]
    return gone


def without_blocks(module: torch.nn.Module, names: Sequence[str]) -> torch.nn.Module:
    """A copy of ``module`` with identities in the place of its blocks ``names``."""
    from edgevision.pruning.blocks import remove_blocks
    from edgevision.pruning.whole import copied

    shorter = copied(module)
    remove_blocks(shorter, names)
    return shorter


def _profiled(job: Job) -> Path:
    """The folder with the times that widths are chosen by, their float graph and its table."""
    return job.done("shorten" if removed_blocks(job) else "profile").folder


def _network(job: Job, module: torch.nn.Module) -> Network:
    assert job.prune is not None
    return Network(
        module=module,
        input_shape=job.preprocessing.input_shape,
        output_names=job.task.output_names,
        target=job.target,
        scheme=job.target.scheme if quantizes(job) else None,
        config=job.prune,
        ignored=tuple(job.task.head_layers(module, len(job.data.labels))),
        threads=job.recipe.verify.threads,
    )


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
