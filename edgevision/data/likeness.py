"""Does a calibration set look like the training images? Simple statistics, against chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgevision.data.base import ImageDataset

if TYPE_CHECKING:
    from edgevision.data.calibration import CalibrationSet

Float64 = npt.NDArray[np.float64]

IMAGES = 256  # of each side that are read
# In standard errors. Of 3200 random draws of CIFAR-10 and Fashion-MNIST none reached 4.1; images
# darkened by a fifth or of 0.7 times the contrast are 8 to 13 away, of one class up to 14.
LIMIT = 5.0
# Share of the images that would have to change class, beyond twice what chance moves.
CLASS_LIMIT = 0.2

_NAMES = tuple(f"{kind} of {channel}" for kind in ("mean", "contrast") for channel in "RGB")


def differences(
    chosen: CalibrationSet,
    train: ImageDataset,
    classes: Sequence[Sequence[int]],
    reference: Sequence[int],
) -> list[str]:
    """What tells ``chosen`` from ``train``, in words with figures; empty where nothing does.

    Pixels as stored, before any normalization: brightness and contrast of each colour, an image
    at a time, and how often each class is shown.

    Args:
        classes: the classes of each image of ``train``.
        reference: images of ``train`` to compare with, even over the classes as ``chosen`` is.

    Raises:
        DataError: an image cannot be read.
    """
    found = _image_differences(
        _statistics(chosen.dataset, chosen.indices[:IMAGES]),
        _statistics(train, reference[:IMAGES]),
    )
    return found + _class_differences(chosen, classes, reference[: len(chosen)])


def _statistics(dataset: ImageDataset, indices: Sequence[int]) -> Float64:
    """(N, 6) float64: mean and standard deviation of each channel's pixels, 0 to 255."""
    rows = np.empty((len(indices), 6))
    for row, index in zip(rows, indices, strict=True):
        pixels = dataset.image(index).reshape(-1, 3)
        row[:3], row[3:] = pixels.mean(axis=0), pixels.std(axis=0)
    return rows


def _image_differences(ours: Float64, theirs: Float64) -> list[str]:
    spread = np.maximum(theirs.std(axis=0), 1.0)  # at least one of 255 levels
    errors = spread * np.sqrt(1 / len(ours) + 1 / len(theirs))
    here, there = ours.mean(axis=0), theirs.mean(axis=0)
    distance = np.abs(here - there) / errors
    # The worst channel of each kind: the others would mostly say the same.
    worst = (int(np.argmax(distance[:3])), 3 + int(np.argmax(distance[3:])))
    return [
        f"{_NAMES[k]} {here[k]:.1f} where training images have {there[k]:.1f}, {distance[k]:.1f} "
        f"standard errors apart (limit {LIMIT:g})"
        for k in worst
        if distance[k] > LIMIT
    ]


def _class_differences(
    chosen: CalibrationSet, classes: Sequence[Sequence[int]], reference: Sequence[int]
) -> list[str]:
    number = len(chosen.dataset.labels)
    ours = _shares(chosen.classes, number)
    # A set may be as even as the data allow, or follow the data; either is like them.
    theirs = [_shares(classes, number), _shares([classes[index] for index in reference], number)]
    shares = min(theirs, key=lambda other: float(np.abs(ours - other).sum()))
    distance = float(np.abs(ours - shares).sum() / 2)
    # Mean absolute deviation of a binomial share, as of a normal distribution.
    chance = float(np.sqrt(2 * shares * (1 - shares) / (np.pi * len(chosen))).sum() / 2)
    limit = CLASS_LIMIT + 2 * chance
    if distance <= limit:
        return []
    most = int(np.argmax(ours - shares))
    return [
        f"{100 * distance:.0f} % of its images are of other classes (limit {100 * limit:.0f} %), "
        f"'{chosen.dataset.labels[most]}' has {100 * ours[most]:.0f} % where training images have "
        f"{100 * shares[most]:.0f} %"
    ]


def _shares(classes: Sequence[Sequence[int]], number: int) -> Float64:
    shown = np.bincount([n for each in classes for n in each], minlength=number).astype(np.float64)
    return shown / max(1.0, float(shown.sum()))
