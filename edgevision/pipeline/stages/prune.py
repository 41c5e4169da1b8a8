"""prune: structured pruning with fine-tuning and distillation after every step."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevision.errors import ModelError
from edgevision.files import write_json
from edgevision.pipeline.job import Job
from edgevision.pipeline.store import Stage
from edgevision.pipeline.timing import time_goal
from edgevision.tasks.base import LossOptions

if TYPE_CHECKING:
    import torch


class Prune(Stage[Job]):
    """Outputs ``checkpoint/``, ``table.json`` (per layer, before and after), ``metrics.json``.

    Interrupted, it prunes the finished steps again (the same weights give the same choice; one
    that rests on measured times is in ``widths.json``) and takes their fine-tuned weights from the
    checkpoints.
    """

    name = "prune"
    resumes = True

    def depends(self, job: Job) -> dict[str, Any]:
        assert job.prune is not None
        assert job.fine_tune is not None
        return {
            "baseline": job.key("baseline"),
            "prune": job.prune.model_dump(mode="json"),
            "fine_tune": job.fine_tune.model_dump(mode="json"),
            "round_to": job.target.round_to,
            "profile": job.key("profile"),
        }

    def run(self, job: Job, work: Path) -> None:
        from edgevision.models.checkpoint import load_checkpoint, save_checkpoint
        from edgevision.pruning import prune, structure_of
        from edgevision.train import evaluate, fit
        from edgevision.train.results import as_phase

        assert job.prune is not None
        assert job.fine_tune is not None
        tune = job.fine_tune
        source = job.done("baseline").path("checkpoint")
        teacher, _ = load_checkpoint(source)
        module, card = load_checkpoint(source)

        def after_step(pruned: torch.nn.Module, step: int, steps: int) -> None:
            fit(
                pruned,
                job.data,
                job.preprocessing,
                job.task,
                tune,
                folder=work / f"step-{step}",
                teacher=teacher,
                progress=as_phase(job.progress, f"fine-tuning {step}/{steps}"),
            )

        def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return job.task.loss(outputs, targets, LossOptions())

        time = time_goal(job, module, work) if job.prune.is_timed else None
        if time is not None and job.is_offer:
            time = replace(time, or_narrowest=True)
        job.progress("pruning", 0, 1, "")
        result = prune(
            module,
            example_shape=(1, *job.preprocessing.input_shape),
            config=job.prune,
            ignored=job.task.head_layers(module, len(job.data.labels)),
            round_to=job.target.round_to,
            batches=lambda: _batches(job),
            loss=loss,
            time=time,
            after_step=after_step,
            progress=lambda phase, done, total: job.progress(phase, done, total, ""),
        )
        job.progress("pruning", 1, 1, "")
        metrics = evaluate(result.module, job.data.validation, job.preprocessing, job.task)
        # Told against the unpruned network: the checkpoint may have come in pruned already.
        structure = structure_of(result.module, _unpruned(job, card.reference))
        card = card.model_copy(update={"structure": structure, "metrics": metrics})
        traced, why = _traced(result.module, (1, *job.preprocessing.input_shape))
        if why:
            card = card.model_copy(update={"lineage": {**card.lineage, "not_traced": why}})
        save_checkpoint(work / "checkpoint", result.module, card, traced=traced)
        write_json(work / "table.json", result.to_dict())
        write_json(work / "metrics.json", metrics)
        for path in work.glob("candidate*.onnx"):
            path.unlink()
        for folder in work.glob("step-*"):
            shutil.rmtree(folder)


def _traced(
    module: torch.nn.Module, shape: tuple[int, ...]
) -> tuple[dict[str, Any] | None, str | None]:
    """The document that loads without the network's class, or why there is none."""
    from edgevision.models.traced import trace_network

    try:
        return trace_network(module, shape), None
    except ModelError as error:
        return None, error.message[:500]


def _unpruned(job: Job, reference: str) -> torch.nn.Module:
    from edgevision.models import create

    channels, height, width = job.preprocessing.input_shape
    return create(
        reference,
        num_classes=len(job.data.labels),
        in_channels=channels,
        image_size=(height, width),
    )


def _batches(job: Job) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    from edgevision.data.loader import BatchLoader

    return iter(
        BatchLoader(
            job.data.train,
            job.preprocessing,
            job.task,
            job.train.batch_size,
            seed=job.recipe.seed,
            train=True,
            augment=None,
        )
    )
