"""regions: leave in float what INT8 makes slower on the target, by measured time."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgevision.backends import get_backend
from edgevision.backends.onnx_file import read_onnx
from edgevision.files import write_json
from edgevision.pipeline.divide import find_division
from edgevision.pipeline.job import Job
from edgevision.pipeline.stages.quantize import emitted
from edgevision.pipeline.stages.recover import emission_of
from edgevision.pipeline.store import Stage
from edgevision.pipeline.survey import timing_status


class Regions(Stage[Job]):
    """Outputs ``model.mixed.SCHEME.onnx``, where one is faster than INT8 throughout.

    ``regions.json`` says what was tried, with times, and which nodes stay in float and why.
    """

    name = "regions"

    def depends(self, job: Job) -> dict[str, Any]:
        from edgevision.devices import package_versions, this_machine

        return {
            "quantize": job.key("quantize"),
            "recover": job.key("recover"),
            "scheme": job.target.scheme,
            "backend": job.target.backend,
            "threads": job.recipe.verify.threads,
            "timed": times_regions(job),
            "versions": package_versions(),
            "machine": asdict(this_machine()),
        }

    def run(self, job: Job, work: Path) -> None:
        scheme = job.target.scheme
        if not times_regions(job) or scheme is None:
            write_json(work / "regions.json", {"tried": []})
            return
        base = emission_of(job)
        found = find_division(
            base.float_path,
            base.int8_path,
            base.table,
            scheme,
            get_backend(job.target.backend),
            _feeds(job, base.float_path),
            work,
            keep_float=base.keep_float,
            threads=job.recipe.verify.threads,
            seed=job.recipe.seed,
            progress=lambda phase, done, total: job.progress(phase, done, total, ""),
        )
        values: dict[str, Any] = {"tried": list(found.tried)}
        if found.path is not None and found.report is not None:
            values[scheme] = emitted(found.report, base.float_path, base.table)
            found.path.rename(work / f"model.mixed.{scheme}.onnx")
        for path in work.glob("division-*.onnx"):
            path.unlink()
        write_json(work / "regions.json", values)


def times_regions(job: Job) -> bool:
    """Whether this machine can tell which regions pay: it runs the target and times its layers."""
    return job.target.scheme is not None and timing_status(job.target).ok


def _feeds(job: Job, graph: Path) -> dict[str, Any]:
    """One validation image, as the verify stage measures with."""
    name = read_onnx(graph).inputs[0].name
    pixels = job.preprocessing.geometry(job.data.validation.image(0))
    return {name: job.preprocessing.normalize(pixels[None])}
