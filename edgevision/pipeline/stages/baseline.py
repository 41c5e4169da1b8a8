"""baseline: load or train the FP32 network that everything later is compared with."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgevision.files import sha256_file, write_json
from edgevision.pipeline.accuracy import evaluate_onnx
from edgevision.pipeline.foreign import Foreign
from edgevision.pipeline.job import Job, model_digest
from edgevision.pipeline.store import Stage

ONNX_NAME = "model.onnx"
GUESSING = 1.5  # times the share of one class; a network that learnt anything is above


class Baseline(Stage[Job]):
    """Outputs ``checkpoint/`` and ``metrics.json`` (validation figures of the torch module).

    Of an ONNX file: ``model.onnx``, as it was adopted, and its figures on ONNX Runtime.
    """

    name = "baseline"
    resumes = True

    def depends(self, job: Job) -> dict[str, Any]:
        if job.foreign is not None:
            return {
                "model": job.foreign.digest(),
                "data": job.data_digest(),
                "preprocessing": job.preprocessing.to_dict(),
                "task": job.recipe.task,
            }
        key = {
            "model": model_digest(job.recipe, job.checkpoint, job.card),
            "data": job.data_digest(),
            "preprocessing": job.preprocessing.to_dict(),
            "task": job.recipe.task,
            "seed": job.recipe.seed,
            "train": None if job.checkpoint else job.train.model_dump(mode="json"),
        }
        weights = job.train.weights
        if weights is not None and weights.is_file() and job.checkpoint is None:
            key["weights"] = sha256_file(weights)
        return key

    def run(self, job: Job, work: Path) -> None:
        from edgevision.models.checkpoint import load_checkpoint, save_checkpoint
        from edgevision.train import evaluate
        from edgevision.train.job import train
        from edgevision.train.results import as_phase

        if job.foreign is not None:
            _evaluate_foreign(job, job.foreign, work)
            return
        folder, training = work / "checkpoint", work / "training"
        if job.checkpoint is not None:
            module, card = load_checkpoint(job.checkpoint)
        elif not (folder / "model.json").exists():  # written last
            _read_all(job)
            data = replace(job.data, preprocessing=job.preprocessing)
            train(
                job.recipe.model,
                data,
                out=training,
                config=job.train,
                task=job.recipe.task,
                progress=as_phase(job.progress, "training"),
            )
            module, card = load_checkpoint(training)
        else:
            module, card = load_checkpoint(folder)
        card = card.model_copy(update={"preprocessing": job.preprocessing.to_dict()})
        save_checkpoint(folder, module, card)
        shutil.rmtree(training, ignore_errors=True)
        job.progress("evaluating FP32", 0, 1, "")
        metrics = evaluate(module, job.data.validation, job.preprocessing, job.task)
        job.progress("evaluating FP32", 1, 1, f"{metrics[job.task.metric_name]:.2f} %")
        write_json(work / "metrics.json", metrics)


def _evaluate_foreign(job: Job, foreign: Foreign, work: Path) -> None:
    from edgevision.export import save_onnx

    graph = work / ONNX_NAME
    save_onnx(foreign.adopted.model, graph)
    metrics = evaluate_onnx(job, graph, "evaluating FP32")
    write_json(work / "metrics.json", metrics)
    classes = len(job.data.labels)
    if metrics[job.task.metric_name] <= GUESSING * 100 / classes:
        job.progress(
            f"FP32 scores {metrics[job.task.metric_name]:.1f} % with {classes} classes, little "
            "more than guessing: are recipe.input's mean, std and color those of its training, "
            "and its outputs in the order of the labels?",
            1,
            1,
            "",
        )


def _read_all(job: Job) -> None:
    """Decode every validation image: one that cannot be read is told before hours of training."""
    data, step = job.data.validation, 100
    for index in range(len(data)):
        data.image(index)
        if index % step == step - 1 or index + 1 == len(data):
            job.progress("reading validation images", index + 1, len(data), "")
