"""Calibration sets against training images: chance is passed over, another look is told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgevision.data import load_data
from edgevision.data.arrays import ArrayDataset
from edgevision.data.calibration import CalibrationSet
from edgevision.data.likeness import differences

TRAIN = load_data("fashion-mnist-mini").train
CLASSES = [(TRAIN.target(index),) for index in range(len(TRAIN))]


def told(indices: Any, change: Any = None, reference_seed: int = 1) -> list[str]:
    indices = [int(index) for index in indices]
    dataset, classes = TRAIN, tuple(CLASSES[index] for index in indices)
    if change is not None:
        images = np.stack([change(TRAIN.image(index).astype(np.float64)) for index in indices])
        targets = np.array([shown[0] for shown in classes])
        images = images.clip(0, 255).astype(np.uint8)
        dataset = ArrayDataset("other/train", images, targets, TRAIN.labels)
        indices = list(range(len(indices)))
    reference = np.random.default_rng(reference_seed).permutation(len(TRAIN))[:512]
    chosen = CalibrationSet(dataset, tuple(indices), classes, 0)
    return differences(chosen, TRAIN, CLASSES, reference.tolist())


@pytest.mark.parametrize("count", [8, 64, 512])
def test_random_sets_are_like_the_training_images(count: int) -> None:
    for seed in range(8):
        order = np.random.default_rng(100 + seed).permutation(len(TRAIN))
        assert told(order[:count], reference_seed=seed) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image * 0.7,
        lambda image: image * 1.5,
        lambda image: 128 + (image - 128) * 0.7,
        lambda image: image / 255,
        lambda image: 255 - image,
        lambda image: image * [0.5, 1, 1],
        lambda image: image * 0,
    ],
)
def test_images_that_were_changed_are_told(change: Any) -> None:
    order = np.random.default_rng(0).permutation(len(TRAIN))[:128]
    found = told(order, change)
    assert found
    assert all("standard errors apart" in line for line in found)


@pytest.mark.parametrize("count", [32, 256])
def test_few_classes_are_told(count: int) -> None:
    for wanted in range(10):
        one = [index for index, shown in enumerate(CLASSES) if shown == (wanted,)]
        assert "of other classes" in told(one[:count])[-1]
    half = [index for index, (shown,) in enumerate(CLASSES) if shown < 5]
    assert ("of other classes" in " ".join(told(half[:count]))) == (count == 256)
