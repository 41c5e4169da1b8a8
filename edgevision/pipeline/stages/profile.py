"""profile: the time of the network at many widths on the target, for pruning to a time."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgevision.pipeline.job import Job
from edgevision.pipeline.store import Stage
from edgevision.pipeline.timing import measure_job, quantizes


class Profile(Stage[Job]):
    """Outputs ``latency.json``, the float graph that was narrowed and its calibration table."""

    name = "profile"
    version = 3

    def depends(self, job: Job) -> dict[str, Any]:
        from edgevision.devices import package_versions, this_machine

        assert job.prune is not None
        return {
            "baseline": job.key("baseline"),
            "scheme": job.target.scheme if quantizes(job) else None,
            "backend": job.target.backend,
            "opset": job.target.opset,
            "round_to": job.target.round_to,
            "max_ratio": job.prune.max_ratio,
            "ignored_layers": job.prune.ignored_layers,
            "threads": job.recipe.verify.threads,
            "seed": job.recipe.seed,
            "versions": package_versions(),
            "machine": asdict(this_machine()),
        }

    def run(self, job: Job, work: Path) -> None:
        from edgevision.models.checkpoint import load_checkpoint

        module, _ = load_checkpoint(job.done("baseline").path("checkpoint"))
        measure_job(job, module, work)
