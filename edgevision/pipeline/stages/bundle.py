"""bundle: everything that ships, with its proof."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgevision.files import sha256_file
from edgevision.pipeline.assemble import write_bundle
from edgevision.pipeline.job import Job
from edgevision.pipeline.report import build_report, verdict_of
from edgevision.pipeline.store import Stage
from edgevision.pipeline.verdict import keeps_budget


class BundleStage(Stage[Job]):
    """Outputs the folder ``bundle``."""

    name = "bundle"

    def depends(self, job: Job) -> dict[str, Any]:
        return {
            "verify": job.key("verify"),
            "figures": sha256_file(job.done("verify").path("verify.json")),
            "recipe": job.recipe.model_dump(mode="json"),
        }

    def run(self, job: Job, work: Path) -> None:
        from edgevision.benchmark.report import render_html

        report = build_report(job)
        figures = job.done("verify").json("verify.json")
        allowed = job.recipe.verify.max_accuracy_drop
        base, *rows = [(row["name"], row["accuracy"]) for row in figures["rows"]]
        write_bundle(
            job,
            work / "bundle",
            shipped=figures["verdict"]["shipped"],
            proven=[name for name, accuracy in rows if keeps_budget(base[1], accuracy, allowed)],
            verdict=verdict_of(job),
            reports={
                "report.json": report.to_bytes(),
                "report.html": render_html(report).encode(),
            },
            golden=True,
        )
