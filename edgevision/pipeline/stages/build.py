"""build: the target's backend turns every graph that it may run into an artifact."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from edgevision.backends import get_backend
from edgevision.backends.base import Artifact, BuildOptions, ShapeRange
from edgevision.files import write_json
from edgevision.pipeline.candidates import BASELINE, graphs
from edgevision.pipeline.job import Job
from edgevision.pipeline.store import Stage, StageResult
from edgevision.types import LayerInfo

LARGEST_BATCH = 32


class Build(Stage[Job]):
    """Outputs an artifact for each wanted graph and for the baseline, and ``artifacts.json``."""

    name = "build"
    version = 2

    def depends(self, job: Job) -> dict[str, Any]:
        return {
            "export": job.key("export"),
            "pruned": job.key("export-pruned"),
            "quantize": job.key("quantize"),
            "recover": job.key("recover"),
            "regions": job.key("regions"),
            "scheme": job.target.scheme,
            "backend": job.target.backend,
            "sdk": get_backend(job.target.backend).is_available().reason,
            "compute_capabilities": list(job.target.compute_capabilities),
        }

    def run(self, job: Job, work: Path) -> None:
        backend = get_backend(job.target.backend)
        fixed = job.fixed_batch
        options = BuildOptions(
            batch=ShapeRange(fixed, fixed, fixed) if fixed else ShapeRange(1, 1, LARGEST_BATCH),
            compute_capabilities=job.target.compute_capabilities,
            progress=partial(_tell, job),
        )
        sources = {BASELINE: job.done("export").path(BASELINE)}
        sources |= {graph.file: graph.path for graph in graphs(job) if graph.wanted}
        built = {}
        for index, (name, source) in enumerate(sources.items()):
            job.progress("building", index, len(sources), name)
            file = work / f"{name.removesuffix('.onnx')}{backend.artifact_suffix}"
            artifact = backend.build(source, file, options)
            built[name] = {
                "file": file.name,
                "meta": artifact.meta,
                "layers": [asdict(layer) for layer in backend.layer_report(artifact)],
            }
        job.progress("building", len(sources), len(sources), "")
        write_json(work / "artifacts.json", built)


def artifact_of(job: Job, built: StageResult, graph: str) -> Artifact:
    """What ``build`` made of the ONNX file ``graph``."""
    entry = built.json("artifacts.json")[graph]
    layers = tuple(LayerInfo(**layer) for layer in entry["layers"])
    return Artifact(job.target.backend, built.path(entry["file"]), entry["meta"], layers)


def _tell(job: Job, phase: str, done: int, total: int) -> None:
    job.progress(f"building: {phase}", done, total, "")
