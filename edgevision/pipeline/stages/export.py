"""export: the FP32 baseline and, where there is one, the pruned network as ONNX, each checked."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevision.data.base import some_images
from edgevision.files import write_json
from edgevision.pipeline.foreign import CHECK_IMAGES
from edgevision.pipeline.job import Job
from edgevision.pipeline.stages.baseline import ONNX_NAME
from edgevision.pipeline.store import Stage, StageResult
from edgevision.types import TensorSpec

if TYPE_CHECKING:
    import torch

INPUT_NAME = "images"
PRUNED = "model.pruned.fp32.onnx"


class Export(Stage[Job]):
    """Outputs ``model.fp32.onnx`` and ``check.json``.

    An ONNX file was adopted, and compared with what it was, before; it is taken over.
    """

    name = "export"

    def depends(self, job: Job) -> dict[str, Any]:
        return {
            "baseline": job.key("baseline"),
            "opset": job.target.opset,
        }

    def run(self, job: Job, work: Path) -> None:
        if job.foreign is not None:
            shutil.copyfile(job.done("baseline").path(ONNX_NAME), work / "model.fp32.onnx")
            write_json(work / "check.json", {"model.fp32.onnx": asdict(job.foreign.adopted.check)})
            return
        _export(job, job.done("baseline"), work / "model.fp32.onnx")


class ExportPruned(Stage[Job]):
    """Outputs ``model.pruned.fp32.onnx`` and ``check.json``.

    A stage of its own, so that networks pruned differently share the baseline's.
    """

    name = "export-pruned"

    def depends(self, job: Job) -> dict[str, Any]:
        return {"prune": job.key("prune"), "opset": job.target.opset}

    def run(self, job: Job, work: Path) -> None:
        _export(job, job.done("prune"), work / PRUNED)


def _export(job: Job, source: StageResult, path: Path) -> None:
    job.progress("exporting", 0, 1, path.name)
    check = export_checkpoint(job, source.path("checkpoint"), path)
    job.progress("exporting", 1, 1, "")
    write_json(path.with_name("check.json"), {path.name: check})


def export_checkpoint(job: Job, checkpoint: Path, path: Path) -> dict[str, Any]:
    """Export one checkpoint and compare it with torch on real validation images."""
    from edgevision.export import check_against_torch
    from edgevision.models.checkpoint import load_checkpoint

    module, _ = load_checkpoint(checkpoint)
    shape, names = job.preprocessing.input_shape, job.task.output_names
    export_module(module, path, input_shape=shape, output_names=names, opset=job.target.opset)
    images = some_images(job.data.validation, job.preprocessing, CHECK_IMAGES)
    return asdict(check_against_torch(path, module, images))


def export_module(
    module: torch.nn.Module,
    path: Path,
    *,
    input_shape: tuple[int, int, int],
    output_names: Sequence[str],
    opset: int,
) -> None:
    """Write ``module`` as ONNX with this project's input name; ``input_shape`` is (C, H, W)."""
    from edgevision.export import export_onnx

    spec = TensorSpec(INPUT_NAME, ("batch", *input_shape))
    export_onnx(module, path, input_spec=spec, output_names=output_names, opset=opset)
