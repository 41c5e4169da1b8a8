"""sparse: training that drives whole channels towards zero, before they are scored."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevision.files import write_json
from edgevision.pipeline.job import Job
from edgevision.pipeline.store import Stage

if TYPE_CHECKING:
    from edgevision.train import TrainConfig


class Sparse(Stage[Job]):
    """Outputs ``checkpoint/`` and ``metrics.json``: the baseline after sparse learning.

    A stage of its own, so that prunings to several targets share it.
    """

    name = "sparse"
    resumes = True

    def depends(self, job: Job) -> dict[str, Any]:
        assert job.prune is not None
        return {
            "baseline": job.key("baseline"),
            "strength": job.prune.sparse_strength,
            "ignored_layers": job.prune.ignored_layers,
            "train": _config(job).model_dump(mode="json"),
        }

    def run(self, job: Job, work: Path) -> None:
        from edgevision.models.checkpoint import load_checkpoint, save_checkpoint
        from edgevision.pruning.sparse_learning import GroupRegularizer
        from edgevision.train import fit
        from edgevision.train.results import as_phase

        assert job.prune is not None
        module, card = load_checkpoint(job.done("baseline").path("checkpoint"))
        regularizer = GroupRegularizer(
            module,
            (1, *job.preprocessing.input_shape),
            job.prune.sparse_strength,
            ignored=job.task.head_layers(module, len(job.data.labels)),
            patterns=job.prune.ignored_layers,
        )
        result = fit(
            module,
            job.data,
            job.preprocessing,
            job.task,
            _config(job),
            folder=work / "training",
            regularizer=regularizer,
            progress=as_phase(job.progress, "sparse learning"),
        )
        card = card.model_copy(update={"metrics": result.metrics})
        save_checkpoint(work / "checkpoint", module, card)
        write_json(work / "metrics.json", result.metrics)
        shutil.rmtree(work / "training")


def _config(job: Job) -> TrainConfig:
    """Fine-tuning's settings, for the epochs of sparse learning."""
    from edgevision.train import override

    assert job.prune is not None
    assert job.fine_tune is not None
    # Muon keeps every weight's norm: nothing would shrink.
    optimizer = "sgd" if job.fine_tune.optimizer == "muon" else job.fine_tune.optimizer
    return override(job.fine_tune, epochs=job.prune.sparse_epochs, optimizer=optimizer)
