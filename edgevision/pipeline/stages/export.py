"""export: the FP32 baseline and, where there is one, the pruned network as ONNX, checked."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevision.data.base import some_images
from edgevision.files import write_json
from edgevision.pipeline.foreign import CHECK_IMAGES
from edgevision.pipeline.job import Job
from edgevision.pipeline.stages.baseline import ONNX_NAME
from edgevision.pipeline.store import Stage
from edgevision.types import TensorSpec

if TYPE_CHECKING:
    import torch

INPUT_NAME = "images"


class Export(Stage[Job]):
    """Outputs ``model.fp32.onnx``, ``model.pruned.fp32.onnx`` when pruned, and ``check.json``.

    An ONNX file was adopted, and compared with what it was, before; it is taken over.
    """

    name = "export"

    def depends(self, job: Job) -> dict[str, Any]:
        return {
            "baseline": job.key("baseline"),
            "prune": job.key("prune"),
            "opset": job.target.opset,
        }

    def run(self, job: Job, work: Path) -> None:
        if job.foreign is not None:
            shutil.copyfile(job.done("baseline").path(ONNX_NAME), work / "model.fp32.onnx")
            write_json(work / "check.json", {"model.fp32.onnx": asdict(job.foreign.adopted.check)})
            return
        sources = {"model.fp32.onnx": job.done("baseline")}
        if "prune" in job.results:
            sources["model.pruned.fp32.onnx"] = job.done("prune")
        checks = {}
        for index, (name, source) in enumerate(sources.items()):
            job.progress("exporting", index, len(sources), name)
            checks[name] = export_checkpoint(job, source.path("checkpoint"), work / name)
        job.progress("exporting", len(sources), len(sources), "")
        write_json(work / "check.json", checks)


def export_checkpoint(job: Job, checkpoint: Path, path: Path) -> dict[str, Any]:
    """Export one checkpoint and compare it with torch on real validation images."""
    from edgevision.export import check_against_torch
    from edgevision.models.checkpoint import load_checkpoint

    module, _ = load_checkpoint(checkpoint)
    export_module(job, module, path)
    images = some_images(job.data.validation, job.preprocessing, CHECK_IMAGES)
    return asdict(check_against_torch(path, module, images))


def export_module(job: Job, module: torch.nn.Module, path: Path) -> None:
    """Export ``module`` with the job's input, outputs and opset."""
    from edgevision.export import export_onnx

    export_onnx(
        module,
        path,
        input_spec=TensorSpec(INPUT_NAME, ("batch", *job.preprocessing.input_shape)),
        output_names=job.task.output_names,
        opset=job.target.opset,
    )
