"""The graphs that might ship beside the FP32 baseline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgevision.pipeline.job import Job
from edgevision.pipeline.stages.export import PRUNED

BASELINE = "model.fp32.onnx"


@dataclass(frozen=True)
class Graph:
    """An ONNX file of the bundle. ``wanted``: the target can run it, so it may ship."""

    file: str
    path: Path
    precision: str
    scheme: str | None
    wanted: bool


def graphs(job: Job) -> list[Graph]:
    """INT8 by scheme, the part-float graph, the pruned float network; at least one is wanted."""
    found = []
    if "quantize" in job.results:
        folder = job.done("quantize").folder
        for made in sorted(folder.glob("model.int8.*.onnx")):
            path, scheme = made, made.name.removeprefix("model.int8.").removesuffix(".onnx")
            if "recover" in job.results and job.done("recover").path(path.name).exists():
                path = job.done("recover").path(path.name)
            found.append(Graph(path.name, path, "int8", scheme, scheme == job.target.scheme))
    if "regions" in job.results:
        for path in job.done("regions").folder.glob("model.mixed.*.onnx"):
            found.append(Graph(path.name, path, "mixed", job.target.scheme, True))
    if "export-pruned" in job.results:
        pruned = job.done("export-pruned").path(PRUNED)
        found.append(Graph(pruned.name, pruned, "fp32", None, True))
    return found


def emission(job: Job, graph: Graph) -> dict[str, Any]:
    """What emitting ``graph`` told, as in the quantize stage's ``emit.json``; empty for float."""
    if graph.scheme is None:
        return {}
    if graph.precision == "mixed":
        told = job.done("regions").json("regions.json")
    elif graph.path.parent != job.done("quantize").folder:
        told = job.done("recover").json("recover.json")
    else:
        told = job.done("quantize").json("emit.json")
    emitted: dict[str, Any] = told[graph.scheme]
    return emitted
