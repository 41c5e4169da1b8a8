"""prune: structured pruning with fine-tuning and distillation after every step."""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevision.errors import ModelError
from edgevision.files import write_json
from edgevision.pipeline.job import Job
from edgevision.pipeline.store import Stage
from edgevision.pipeline.timing import (
    latency_model,
    quantizes,
    removed_blocks,
    time_goal,
    without_blocks,
)
from edgevision.pipeline.verdict import keeps_budget
from edgevision.tasks.base import LossOptions

if TYPE_CHECKING:
    import torch

    from edgevision.pruning.gradients import Loss

ROUNDS = "rounds.json"
NARROWED, RECALIBRATED, TUNED = "narrowed", "recalibrated", "fine-tuned"
_STATISTICS_IMAGES = 2000
_INT8_SHARE = 0.5  # of the accuracy budget, left for quantization


class Prune(Stage[Job]):
    """Outputs ``checkpoint/``, ``table.json`` (per layer, before and after), ``metrics.json``.

    Beside them ``rounds.json``: the validation figures of each round as it was narrowed, after
    batch norm was recalibrated (where there is one), and fine-tuned, as often as that was done.

    Interrupted, it prunes the finished steps again (the same weights give the same choice; one
    that rests on measured times is in ``widths.json``) and takes their fine-tuned weights from the
    checkpoints.
    """

    name = "prune"
    version = 3
    resumes = True

    def depends(self, job: Job) -> dict[str, Any]:
        assert job.prune is not None
        assert job.fine_tune is not None
        return {
            "baseline": job.key("baseline"),
            "sparse": job.key("sparse"),
            "prune": job.prune.model_dump(mode="json", exclude={"depth"}),
            "fine_tune": job.fine_tune.model_dump(mode="json"),
            "round_to": job.target.round_to,
            "profile": job.key("profile"),
            "allowed": _allowed(job),
            # Where no block went, it is the same pruning as without having looked for one.
            **({"shorten": job.key("shorten")} if removed_blocks(job) else {}),
            **({"offer": True} if job.is_offer else {}),  # pruned as far as the widths go
        }

    def run(self, job: Job, work: Path) -> None:
        from edgevision.models.checkpoint import load_checkpoint, save_checkpoint
        from edgevision.models.traced import TracedNetwork
        from edgevision.pruning import prune, structure_of
        from edgevision.train import evaluate, recalibrate_batch_norm

        assert job.prune is not None
        teacher, card = load_checkpoint(job.done("baseline").path("checkpoint"))
        module = dense_network(job)
        if isinstance(module, TracedNetwork):
            raise ModelError(
                f"A network that was loaded without its class cannot be pruned: "
                f"{module.instead_of}",
                hint="Run the command where its class is at hand.",
            )
        rounds, most_cycles = _Rounds(work / ROUNDS), job.prune.most_cycles

        def figures(pruned: torch.nn.Module) -> dict[str, float]:
            return evaluate(pruned, job.data.validation, job.preprocessing, job.task)

        def after_step(pruned: torch.nn.Module, step: int, steps: int) -> None:
            rounds.tell(step, NARROWED, lambda: figures(pruned))
            if recalibrate_batch_norm(
                pruned, job.data, job.preprocessing, job.task, images=_STATISTICS_IMAGES
            ):
                rounds.tell(step, RECALIBRATED, lambda: figures(pruned))
            cycles = most_cycles if step == steps else 1
            told = f"fine-tuning {step}/{steps}"
            for what, result in _trained(job, pruned, teacher, work / f"step-{step}", told, cycles):
                rounds.tell(step, what, partial(dict, result))

        time, gone = None, removed_blocks(job)
        if job.prune.is_timed:
            shorter = without_blocks(module, gone)
            time = time_goal(job, latency_model(job, shorter), shorter, work)
        if time is not None and job.is_offer:
            time = replace(time, or_narrowest=True)
        job.progress("pruning", 0, 1, "")
        result = prune(
            module,
            example_shape=(1, *job.preprocessing.input_shape),
            config=job.prune,
            ignored=job.task.head_layers(module, len(job.data.labels)),
            round_to=job.target.round_to,
            without=gone,
            batches=lambda: training_batches(job),
            loss=training_loss(job),
            time=time,
            after_step=after_step,
            progress=lambda phase, done, total: job.progress(phase, done, total, ""),
        )
        job.progress("pruning", 1, 1, "")
        metrics = rounds[-1][-1][1]
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


def dense_network(job: Job) -> torch.nn.Module:
    """The network that is pruned: the baseline, after sparse learning where that was asked for."""
    from edgevision.models.checkpoint import load_checkpoint

    trained = "sparse" if "sparse" in job.results else "baseline"
    return load_checkpoint(job.done(trained).path("checkpoint"))[0]


def training_loss(job: Job) -> Loss:
    """The task's loss, as pruning measures it."""
    return lambda outputs, targets: job.task.loss(outputs, targets, LossOptions())


def training_batches(job: Job) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Training images without augmentation, the same ones each time."""
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


def _trained(
    job: Job,
    pruned: torch.nn.Module,
    teacher: torch.nn.Module,
    folder: Path,
    phase: str,
    cycles: int,
) -> Iterator[tuple[str, dict[str, float]]]:
    """Train ``pruned`` in place up to ``cycles`` times, until the accuracy keeps the budget.

    A later training that gains nothing is undone and ends it.

    Yields:
        What was done and the figures after it.
    """
    from edgevision.train import fit, override
    from edgevision.train.results import as_phase

    assert job.fine_tune is not None
    metric = job.task.metric_name
    baseline = float(job.done("baseline").json("metrics.json")[metric])
    best = -math.inf
    for cycle in range(1, cycles + 1):
        before = copy.deepcopy(pruned.state_dict()) if cycle > 1 else {}
        done = fit(
            pruned,
            job.data,
            job.preprocessing,
            job.task,
            override(job.fine_tune, seed=job.fine_tune.seed + cycle - 1),
            folder=folder if cycle == 1 else folder.with_name(f"{folder.name}-{cycle}"),
            teacher=teacher,
            progress=as_phase(job.progress, phase if cycle == 1 else f"{phase}, again"),
        )
        if done.metrics[metric] <= best:
            pruned.load_state_dict(before)
            return
        best = done.metrics[metric]
        yield TUNED if cycle == 1 else f"{TUNED} {cycle} times", done.metrics
        if keeps_budget(baseline, best, _allowed(job)):
            return


def _allowed(job: Job) -> float:
    """Points that pruning may lose."""
    return job.recipe.verify.max_accuracy_drop * (_INT8_SHARE if quantizes(job) else 1.0)


def _traced(
    module: torch.nn.Module, shape: tuple[int, ...]
) -> tuple[dict[str, Any] | None, str | None]:
    """The document that loads without the network's class, or why there is none."""
    from edgevision.models.traced import trace_network

    try:
        return trace_network(module, shape), None
    except ModelError as error:
        return None, error.message[:500]


class _Rounds(list[list[tuple[str, dict[str, float]]]]):
    """Of each round what was done and the figures after it, on disk as soon as they are known."""

    def __init__(self, path: Path) -> None:
        super().__init__(json.loads(path.read_bytes()) if path.exists() else [])
        self._path = path

    def tell(self, step: int, what: str, figures: Callable[[], dict[str, float]]) -> None:
        """Note ``figures`` of round ``step`` (from 1), unless an interrupted run did."""
        self.extend([] for _ in range(step - len(self)))
        if what not in [done for done, _ in self[step - 1]]:
            self[step - 1].append((what, figures()))
            write_json(self._path, list(self))


def _unpruned(job: Job, reference: str) -> torch.nn.Module:
    from edgevision.models import create

    channels, height, width = job.preprocessing.input_shape
    return create(
        reference,
        num_classes=len(job.data.labels),
        in_channels=channels,
        image_size=(height, width),
        folders=False,
    )
