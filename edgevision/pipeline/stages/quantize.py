"""quantize: calibrate once, then emit one Q/DQ graph per quantization scheme."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgevision.errors import ModelError
from edgevision.files import write_json
from edgevision.pipeline.job import Job
from edgevision.pipeline.store import Stage

BATCH = 32
NOISE_IMAGES = 16  # the noise of a layer is a mean over its pixels as well


class Quantize(Stage[Job]):
    """Outputs ``calibration.json``, ``calibration-set.json`` and ``model.int8.SCHEME.onnx``."""

    name = "quantize"
    version = 2

    def depends(self, job: Job) -> dict[str, Any]:
        assert job.recipe.quantize is not None
        return {
            "export": job.key("export"),
            "quantize": job.recipe.quantize.model_dump(),
            "scheme": job.target.scheme,
            "seed": job.recipe.seed,
            "data": job.data_digest(),
        }

    def run(self, job: Job, work: Path) -> None:
        from edgevision.data.calibration import sample_calibration
        from edgevision.export import load_onnx
        from edgevision.quantization import calibrate, emit, get_scheme, scheme_names
        from edgevision.quantization.diagnosis import node_facts
        from edgevision.quantization.sensitivity import layer_noise

        assert job.recipe.quantize is not None
        section = job.recipe.quantize
        chosen = sample_calibration(
            job.data.train,
            job.task,
            section.images,
            job.recipe.seed,
            validation=job.data.validation,
            fewer=True,
        )
        chosen.save(work / "calibration-set.json")
        graph = float_graph(job)
        table = calibrate(
            graph,
            chosen.batches(job.preprocessing, BATCH),
            method=section.method,
            calibration_digest=chosen.digest,
            progress=lambda seen: job.progress("calibrating", seen, len(chosen), ""),
        )
        table.save(work / "calibration.json")
        reports: dict[str, dict[str, Any]] = {}
        for index, scheme in enumerate(scheme_names()):
            job.progress("emitting Q/DQ", index, len(scheme_names()), scheme)
            try:
                report = emit(graph, table, scheme, work / f"model.int8.{scheme}.onnx")
            except ModelError as error:
                if scheme == job.target.scheme:
                    raise
                reports[scheme] = {"refused": error.message}
                continue
            reports[scheme] = {
                "asked": {node.name: node.asked for node in report.nodes},
                "left_in_float": {n.name: n.reason for n in report.nodes if n.asked == "float"},
                "findings": [asdict(finding) for finding in report.findings],
            }
            noise = None
            if scheme == job.target.scheme:
                seen = next(iter(chosen.batches(job.preprocessing, NOISE_IMAGES)))
                noise = layer_noise(graph, table, scheme, seen)
            facts = node_facts(load_onnx(graph), table, get_scheme(scheme), report.nodes, noise)
            reports[scheme]["nodes"] = [asdict(node) for node in facts]
        job.progress("emitting Q/DQ", len(reports), len(reports), "")
        write_json(work / "emit.json", reports)


def float_graph(job: Job) -> Path:
    """The float ONNX graph that ships if nothing is quantized: pruned, or else the baseline."""
    export = job.done("export")
    pruned = export.path("model.pruned.fp32.onnx")
    return pruned if pruned.exists() else export.path("model.fp32.onnx")
