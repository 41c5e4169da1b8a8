"""verify: accuracy over the whole validation split and latency against FP32, as they will ship."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevision.backends import get_backend
from edgevision.files import write_json
from edgevision.pipeline.accuracy import Accuracy, measure_accuracy
from edgevision.pipeline.assemble import write_bundle
from edgevision.pipeline.candidates import BASELINE, Graph, graphs
from edgevision.pipeline.job import Job
from edgevision.pipeline.stages.build import artifact_of
from edgevision.pipeline.store import Stage, StageResult
from edgevision.pipeline.survey import target_status
from edgevision.pipeline.timing import bounds_of
from edgevision.pipeline.verdict import Candidate, Speed, Verdict, judge

if TYPE_CHECKING:
    from edgevision.backends.base import Runner
    from edgevision.benchmark import Comparison


# Median over fastest run, above which other work took the processor: quiet machines stay near 1.1.
BUSY = 2.0


class Verify(Stage[Job]):
    """Outputs ``verify.json``: a row for FP32 and each candidate, the comparison, the verdict.

    A draft of the bundle is written and opened by the runtime, so what is measured is what ships.
    Where the target's engines cannot run on this machine, accuracy is that of the same ONNX graph
    on ONNX Runtime and latency is not measured; ``accuracy_on`` and the verdict say so.
    """

    name = "verify"

    def depends(self, job: Job) -> dict[str, Any]:
        from edgevision.devices import package_versions, this_machine

        return {
            "export": job.key("export"),
            "pruned": job.key("export-pruned"),
            "quantize": job.key("quantize"),
            "recover": job.key("recover"),
            "regions": job.key("regions"),
            "build": job.key("build"),
            "data": job.data_digest(),
            "verify": job.recipe.verify.model_dump(),
            "target": job.target.name,
            "scheme": job.target.scheme,
            "backend": job.target.backend,
            "runs_here": _runs_here(job),
            "versions": package_versions(),
            "machine": asdict(this_machine()),
        }

    def reusable(self, result: StageResult) -> bool:
        """Too slow, or measured on a busy machine, is measured again."""
        figures = result.json("verify.json")
        speeds = [row["speed"] for row in figures["rows"] if row["speed"] is not None]
        steady = all(speed["steady"] for speed in speeds)
        return steady and (not speeds or figures["verdict"]["exit_code"] != 5)

    def run(self, job: Job, work: Path) -> None:
        draft = work / "draft"
        write_bundle(job, draft)
        wanted = [graph for graph in graphs(job) if graph.wanted]
        names = [BASELINE, *(graph.file for graph in wanted)]
        artifacts = _artifacts(job, draft)
        measured = {n: self._accuracy(job, draft, n, artifacts.get(n, n)) for n in names}
        accuracies = {name: accuracy for name, (accuracy, _) in measured.items()}
        comparison = self._latency(job, wanted)
        shutil.rmtree(draft)
        metric = job.task.metric_name
        speeds = {name: speed_of(comparison, name) if comparison else None for name in names}
        candidates = [
            Candidate(g.file, accuracies[g.file].figures[metric], speeds[g.file]) for g in wanted
        ]
        baseline = accuracies[BASELINE]
        verdict = judge(
            baseline.figures[metric],
            candidates,
            bounds_of(job),
            trainable=job.foreign is None,
        )
        verdict = replace(verdict, reasons=(*verdict.reasons, *_causes(job, verdict)))
        sizes = {graph.file: graph.path.stat().st_size for graph in wanted}
        sizes[BASELINE] = job.done("export").path(BASELINE).stat().st_size
        rows = [
            {
                "name": name,
                "accuracy": accuracies[name].figures[metric],
                "figures": accuracies[name].figures,
                "per_class": accuracies[name].per_class,
                "speed": asdict(speed) if (speed := speeds[name]) else None,
                "size": sizes[name],
            }
            for name in names
        ]
        figures = {
            "target": job.target.name,
            "metric": metric,
            "images": baseline.images,
            "accuracy_on": measured[names[-1]][1],
            "rows": rows,
            "verdict": asdict(verdict),
            "comparison": comparison.to_dict() if comparison else None,
        }
        write_json(work / "verify.json", figures)

    def _accuracy(self, job: Job, draft: Path, name: str, artifact: str) -> tuple[Accuracy, str]:
        """Of an artifact in the draft, and the backend that it ran on."""
        from edgevision.runtime import load

        phase = f"accuracy of {name}"
        with load(draft, artifact=artifact, threads=job.recipe.verify.threads) as model:
            found = measure_accuracy(
                model, job.data.validation, lambda done, total: job.progress(phase, done, total, "")
            )
            return found, model.choice.backend

    def _latency(self, job: Job, wanted: list[Graph]) -> Comparison | None:
        from edgevision.benchmark import BenchConfig, compare

        if not _runs_here(job):
            return None
        bounds = job.recipe.verify
        tensor = job.preprocessing.normalize(
            job.preprocessing.geometry(job.data.validation.image(0))[None]
        )
        with _runners(job, [BASELINE, *(g.file for g in wanted)]) as runners:
            runs: dict[str, Callable[[], object]] = {
                name: partial(runner.infer, {runner.input_specs[0].name: tensor})
                for name, runner in runners.items()
            }
            return compare(
                runs,
                baseline=BASELINE,
                config=BenchConfig(seconds=bounds.seconds, seed=job.recipe.seed),
                progress=lambda phase, share: job.progress(
                    f"latency: {phase}", round(share * 100), 100, ""
                ),
            )


def _causes(job: Job, verdict: Verdict) -> list[str]:
    """The layers behind a failed verdict, of the graph that the target would run on integers."""
    from edgevision.pipeline.layers import graph_layers, graph_nodes
    from edgevision.pipeline.reasons import accuracy_reasons, speed_reasons

    integer = [graph.file for graph in graphs(job) if graph.wanted and graph.scheme is not None]
    if verdict.exit_code not in (4, 5) or not integer:
        return []
    name = verdict.shipped if verdict.shipped in integer else integer[0]
    if verdict.exit_code == 4:
        return accuracy_reasons(graph_nodes(job)[name])
    return speed_reasons(graph_layers(job, name), graph_layers(job, BASELINE))


def _runs_here(job: Job) -> bool:
    return job.recipe.build and target_status(job.target).runs.ok


def _artifacts(job: Job, draft: Path) -> dict[str, str]:
    """Graph → the engine made of it in the draft, where this machine can run engines."""
    from edgevision.bundle import open_bundle

    if not _runs_here(job):
        return {}
    with open_bundle(draft) as bundle:
        engines = [entry for entry in bundle.manifest.runnable() if entry.kind == "engine"]
    return {f"{Path(entry.path).stem}.onnx": entry.path for entry in engines}


@contextmanager
def _runners(job: Job, names: list[str]) -> Iterator[dict[str, Runner]]:
    backend = get_backend(job.target.backend)
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(
                backend.open(
                    artifact_of(job, job.done("build"), name), threads=job.recipe.verify.threads
                )
            )
            for name in names
        }


def speed_of(comparison: Comparison, name: str) -> Speed:
    """Speed of the run ``name``, and whether the machine was quiet."""
    sides = [comparison.runs[side] for side in {name, comparison.baseline}]
    steady = all(side.latency_p50_ms <= BUSY * side.latency_min_ms for side in sides)
    p50 = comparison.runs[name].latency_p50_ms
    if name == comparison.baseline:
        return Speed(p50, 1.0, 1.0, 1.0, steady)
    ratio = comparison.ratios[name]
    return Speed(p50, ratio.value, ratio.low, ratio.high, steady)
