"""baseline: load or train the FP32 network that everything later is compared with."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

from edgevision.files import write_json
from edgevision.pipeline.job import Job, model_digest
from edgevision.pipeline.store import Stage


class Baseline(Stage[Job]):
    """Outputs ``checkpoint/`` and ``metrics.json`` (validation figures of the torch module)."""

    name = "baseline"
    resumes = True

    def depends(self, job: Job) -> dict[str, Any]:
        trained = None if job.checkpoint else job.train.model_dump(mode="json")
        return {
            "model": model_digest(job.recipe, job.checkpoint),
            "data": job.data_digest(),
            "preprocessing": job.preprocessing.to_dict(),
            "task": job.recipe.task,
            "seed": job.recipe.seed,
            "train": trained,
        }

    def run(self, job: Job, work: Path) -> None:
        import torch

        from edgevision.models import create
        from edgevision.models.checkpoint import ModelCard, load_checkpoint, save_checkpoint
        from edgevision.train import evaluate, fit

        folder = work / "checkpoint"
        if job.checkpoint is not None and job.card is not None:
            module, card = load_checkpoint(job.checkpoint)
            card = card.model_copy(update={"preprocessing": job.preprocessing.to_dict()})
            save_checkpoint(folder, module, card)
        elif not (folder / "model.json").exists():  # written last
            channels, *size = job.preprocessing.input_shape
            torch.manual_seed(job.recipe.seed)
            module = create(
                job.recipe.model,
                num_classes=len(job.data.labels),
                in_channels=channels,
                image_size=(size[0], size[1]),
            )
            result = fit(
                module,
                job.data,
                job.preprocessing,
                job.task,
                job.train,
                folder=work / "training",
                progress=partial(job.progress, "training"),
            )
            card = ModelCard(
                reference=job.recipe.model,
                task=job.recipe.task,
                labels=job.data.labels,
                in_channels=channels,
                preprocessing=job.preprocessing.to_dict(),
                structure=None,
                metrics=result.metrics,
                lineage={"data": job.data_digest(), "train": job.train.model_dump(mode="json")},
            )
            save_checkpoint(folder, result.module, card)
        shutil.rmtree(work / "training", ignore_errors=True)
        module, card = load_checkpoint(folder)
        job.progress("evaluating FP32", 0, 1, "")
        metrics = evaluate(module, job.data.validation, job.preprocessing, job.task)
        job.progress("evaluating FP32", 1, 1, f"{metrics[job.task.metric_name]:.2f} %")
        write_json(work / "metrics.json", metrics)
