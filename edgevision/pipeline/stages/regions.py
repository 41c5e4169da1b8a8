"""regions: leave in float what INT8 makes slower on the target, by measured time."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevision.backends import get_backend
from edgevision.backends.base import Artifact
from edgevision.files import write_json
from edgevision.pipeline.job import Job
from edgevision.pipeline.stages.quantize import emitted, float_graph
from edgevision.pipeline.store import Stage
from edgevision.pipeline.survey import target_status

if TYPE_CHECKING:
    from edgevision.benchmark import Comparison

SECONDS = 8.0
# A division must beat INT8 throughout by this much: less may be this run's luck.
WORTH = 1.02
_FLOAT, _INT8 = "float", "int8"


def times_regions(job: Job) -> bool:
    """Whether this machine can tell which regions pay: it runs the target and times its layers."""
    scheme, backend = job.target.scheme, get_backend(job.target.backend)
    return scheme is not None and backend.times_layers and target_status(job.target).runs.ok


class Regions(Stage[Job]):
    """Outputs ``model.mixed.SCHEME.onnx``, where one is faster than INT8 throughout.

    ``regions.json`` says what was tried, with times, and which nodes stay in float and why.
    """

    name = "regions"

    def depends(self, job: Job) -> dict[str, Any]:
        from edgevision.devices import package_versions, this_machine

        return {
            "quantize": job.key("quantize"),
            "scheme": job.target.scheme,
            "backend": job.target.backend,
            "threads": job.recipe.verify.threads,
            "timed": times_regions(job),
            "versions": package_versions(),
            "machine": asdict(this_machine()),
        }

    def run(self, job: Job, work: Path) -> None:
        from edgevision.quantization import CalibrationTable, emit
        from edgevision.quantization.mixed import divisions

        scheme = job.target.scheme
        if not times_regions(job) or scheme is None:
            write_json(work / "regions.json", {"chosen": None, "tried": []})
            return
        quantize = job.done("quantize")
        graph, int8 = float_graph(job), quantize.path(f"model.int8.{scheme}.onnx")
        table = CalibrationTable.load(quantize.path("calibration.json"))
        job.progress("timing layers", 0, 1, "")
        found = divisions(graph, int8, scheme, _feeds(job, graph), threads=_threads(job))
        job.progress("timing layers", 1, 1, f"{len(found)} divisions")
        paths, reports = {_FLOAT: graph, _INT8: int8}, {}
        for number, division in enumerate(found):
            job.progress("emitting divisions", number, len(found), "")
            path = work / f"division-{number}.onnx"
            report = emit(graph, table, scheme, path, keep_float=division.keep_float)
            reports[path.stem], paths[path.stem] = report, path
        job.progress("emitting divisions", len(found), len(found), "")
        chosen, tried = None, []
        if found:
            comparison = _measure(job, paths)
            chosen = _fastest(comparison)
            tried = [
                {
                    "name": name,
                    "latency_p50_ms": comparison.runs[name].latency_p50_ms,
                    "latency_min_ms": comparison.runs[name].latency_min_ms,
                    "int8": reports[name].counts().get("int8", 0) if name in reports else None,
                }
                for name in comparison.runs
            ]
        values: dict[str, Any] = {"chosen": chosen, "tried": tried}
        if chosen is not None:
            values[scheme] = emitted(reports[chosen])
            paths[chosen].rename(work / f"model.mixed.{scheme}.onnx")
        for path in work.glob("division-*.onnx"):
            path.unlink()
        write_json(work / "regions.json", values)


def _threads(job: Job) -> int | None:
    return job.recipe.verify.threads


def _feeds(job: Job, graph: Path) -> dict[str, Any]:
    """One validation image, as the verify stage measures with."""
    with get_backend("onnxruntime").open(Artifact("onnxruntime", graph), threads=1) as runner:
        name = runner.input_specs[0].name
    pixels = job.preprocessing.geometry(job.data.validation.image(0))
    return {name: job.preprocessing.normalize(pixels[None])}


def _measure(job: Job, paths: dict[str, Path]) -> Comparison:
    from edgevision.benchmark import BenchConfig, compare

    backend, feeds = get_backend(job.target.backend), _feeds(job, paths[_FLOAT])
    with ExitStack() as stack:
        runs: dict[str, Callable[[], object]] = {}
        for name, path in paths.items():
            artifact = Artifact(backend.name, path)
            runner = stack.enter_context(backend.open(artifact, threads=_threads(job)))
            runs[name] = partial(runner.infer, feeds)
        return compare(
            runs,
            baseline=_INT8,
            config=BenchConfig(seconds=SECONDS, seed=job.recipe.seed),
            progress=lambda phase, share: job.progress(
                f"divisions: {phase}", round(share * 100), 100, ""
            ),
        )


def _fastest(comparison: Comparison) -> str | None:
    """The fastest division, None where INT8 throughout is as fast or float faster than all."""
    best = min(comparison.runs, key=lambda name: comparison.runs[name].latency_p50_ms)
    if best in (_FLOAT, _INT8):
        return None
    ratio = comparison.ratios[best]
    return best if ratio.value >= WORTH and ratio.low > 1.0 else None
