"""Sparse learning and pruning as stages: what they leave, and carried on after an end within."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgevision.models.checkpoint import load_checkpoint
from edgevision.pipeline.compress import stages_of
from edgevision.pipeline.job import Job, prepare
from edgevision.pipeline.stages.baseline import Baseline
from edgevision.pipeline.stages.prune import NARROWED, RECALIBRATED, ROUNDS, TUNED, Prune
from edgevision.pipeline.stages.sparse import Sparse
from edgevision.pipeline.store import StageStore
from edgevision.recipe import Recipe, merge
from edgevision.train import evaluate

STAGES = (Baseline, Sparse, Prune)
RECIPE: dict[str, Any] = {
    "model": "cifar-resnet8",
    "quantize": None,
    "build": False,
    "verify": {"max_accuracy_drop": 100},
    "input": {"size": 16},
    "train": {"epochs": 1, "batch_size": 20, "precision": "fp32"},
    "prune": {
        "macs": 0.4,
        "steps": 2,
        "sparse_epochs": 2,
        "sparse_strength": 0.01,
        "fine_tune": {"epochs": 2},
    },
}


class KilledError(Exception):
    """Stands for the end of the process."""


def run(out: Path, data: Path, kill: str = "", **prune: Any) -> Job:
    """Run the stages; ``kill`` names a phase in which the process ends after one epoch."""

    def progress(phase: str, done: int, total: int, note: str = "") -> None:
        if kill and phase == kill and note.startswith("epoch 2"):
            raise KilledError

    fields = merge(RECIPE, {"data": str(data), "prune": prune})
    job = prepare(Recipe(**fields), progress)
    store = StageStore(out)
    for stage in STAGES:
        job.results[stage.name] = store.run(stage(), job)
    return job


def test_stages_tell_each_round_and_carry_on_where_they_ended(
    tmp_path: Path, image_folder: Path
) -> None:
    whole = run(tmp_path / "whole", image_folder)
    for phase in ("sparse learning", "fine-tuning 1/2", "fine-tuning 2/2"):
        with pytest.raises(KilledError):
            run(tmp_path / "cut", image_folder, kill=phase)
    cut = run(tmp_path / "cut", image_folder)
    for stage, file in (
        ("sparse", "checkpoint/model.safetensors"),
        ("prune", "checkpoint/model.safetensors"),
        ("prune", ROUNDS),
        ("prune", "table.json"),
    ):
        assert cut.done(stage).path(file).read_bytes() == whole.done(stage).path(file).read_bytes()
    rounds = whole.done("prune").json(ROUNDS)
    whats = [[what for what, _ in figures] for figures in rounds]
    assert whats == [[NARROWED, RECALIBRATED, TUNED]] * 2
    assert whole.done("prune").json("metrics.json") == rounds[-1][-1][1]
    names = [path.name for path in whole.done("prune").folder.iterdir()]
    assert not [name for name in names if name.startswith("step-")]
    assert not whole.done("sparse").path("training").exists()
    # Another target shares what was trained; another strength does not.
    other = run(tmp_path / "whole", image_folder, macs=0.3)
    assert other.done("sparse").reused
    assert not other.done("prune").reused


def test_while_the_budget_is_missed_it_is_trained_again(
    tmp_path: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgevision.pipeline.stages.prune.keeps_budget", lambda *_: False)
    options = {"steps": 1, "sparse_epochs": 1, "most_cycles": 3}
    whole = run(tmp_path / "whole", image_folder, **options).done("prune")
    with pytest.raises(KilledError):
        run(tmp_path / "cut", image_folder, kill="fine-tuning 1/1, again", **options)
    cut = run(tmp_path / "cut", image_folder, **options).done("prune")
    weights = "checkpoint/model.safetensors"
    assert cut.path(weights).read_bytes() == whole.path(weights).read_bytes()
    (figures,) = whole.json(ROUNDS)
    trained = [value["top1"] for what, value in figures if what.startswith(TUNED)]
    assert trained == sorted(set(trained))  # what gained nothing was undone
    assert whole.json("metrics.json")["top1"] == trained[-1]
    job = run(tmp_path / "whole", image_folder, **options)
    module, _ = load_checkpoint(whole.path("checkpoint"))
    found = evaluate(module, job.data.validation, job.preprocessing, job.task)
    assert found["top1"] == trained[-1]


def test_sparse_learning_shrinks_the_least_channels_more_than_training_alone(
    tmp_path: Path, image_folder: Path
) -> None:
    def smallest(strength: float) -> float:
        job = run(tmp_path, image_folder, sparse_strength=strength)
        module, _ = load_checkpoint(job.done("sparse").path("checkpoint"))
        weight = module.get_submodule("blocks.1.conv1").weight
        return float(weight.detach().pow(2).sum((1, 2, 3)).min())

    assert smallest(0.05) < 0.8 * smallest(1e-6)


def test_without_sparse_epochs_there_is_no_such_stage() -> None:
    fields = {"model": "plain-cnn", "data": "fashion-mnist-mini"}
    names = [s.name for s in stages_of(Recipe(**fields, prune={"macs": 0.5}))]
    assert "sparse" not in names
    names = [s.name for s in stages_of(Recipe(**fields, prune={"macs": 0.5, "sparse_epochs": 1}))]
    assert names[:3] == ["baseline", "sparse", "prune"]


def test_blocks_are_only_weighed_where_that_is_asked_for() -> None:
    fields = {"model": "plain-cnn", "data": "fashion-mnist-mini"}
    names = [s.name for s in stages_of(Recipe(**fields, prune={"speedup": 2.0}))]
    assert names[:3] == ["baseline", "profile", "prune"]
    prune = {"speedup": 2.0, "depth": True, "sparse_epochs": 1}
    names = [s.name for s in stages_of(Recipe(**fields, prune=prune))]
    assert names[:5] == ["baseline", "profile", "sparse", "shorten", "prune"]
