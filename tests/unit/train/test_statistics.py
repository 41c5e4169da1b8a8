"""Batch norm recalibrated: what is measured, that it helps, and that it is skipped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from edgevision.data import DataSplits
from edgevision.models import create
from edgevision.pruning import PruneConfig, prune
from edgevision.tasks import get_task
from edgevision.train import TrainConfig, evaluate, fit, recalibrate_batch_norm

TASK = get_task("classification")


def recalibrate(module: nn.Module, data: DataSplits, images: int = 200) -> bool:
    return recalibrate_batch_norm(module, data, data.preprocessing, TASK, images=images)


def test_it_gives_back_accuracy_after_narrowing(clothes: DataSplits, tmp_path: Path) -> None:
    module = create("cifar-resnet8", num_classes=3, in_channels=1, image_size=(28, 28))
    config = TrainConfig(epochs=6, batch_size=40, optimizer="sgd", learning_rate=0.1)
    fit(module, clothes, clothes.preprocessing, TASK, config, folder=tmp_path)
    narrow = prune(
        module,
        example_shape=(1, 1, 28, 28),
        config=PruneConfig(macs=0.6),
        ignored=[module.get_submodule("head")],
    ).module

    def accuracy() -> float:
        return evaluate(narrow, clothes.validation, clothes.preprocessing, TASK)["top1"]

    before = accuracy()
    weights = {name: value.clone() for name, value in narrow.named_parameters()}
    assert recalibrate(narrow, clothes)
    assert accuracy() > before + 10
    assert all(torch.equal(value, weights[name]) for name, value in narrow.named_parameters())


def test_only_batch_norm_is_in_training_mode_and_all_modes_come_back(clothes: DataSplits) -> None:
    module = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(784, 3))
    module.eval()
    module[3].train()
    assert recalibrate(module, clothes, images=100)
    assert [layer.training for layer in module] == [False, False, False, True]
    assert module[1].momentum == 0.1
    # Without dropout the images keep their scale: normalized pixels over the whole split.
    assert float(module[1].running_var) == pytest.approx(1.0, abs=0.2)
    again = [module[1].running_mean.clone(), module[1].running_var.clone()]
    recalibrate(module, clothes, images=100)
    assert torch.equal(again[0], module[1].running_mean)
    assert torch.equal(again[1], module[1].running_var)


def test_without_batch_norm_nothing_is_run(clothes: DataSplits) -> None:
    class Refuses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.GroupNorm(1, 1)
            self.batch = nn.BatchNorm2d(1, track_running_stats=False)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            raise AssertionError("run for nothing")

    assert not recalibrate(Refuses(), clothes)
