"""A part of a data set, and the split of one into two."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgevision.data.base import ImageDataset
from edgevision.errors import DataError


class Subset(ImageDataset):
    """The images of ``dataset`` at ``indices``, in this order.

    Raises:
        DataError: an index out of range.
    """

    def __init__(self, dataset: ImageDataset, indices: Sequence[int], name: str) -> None:
        self.name = name
        self.labels = dataset.labels
        self._dataset = dataset
        self._indices: npt.NDArray[np.int64] = np.array(indices, np.int64)
        if len(self._indices) and not (
            self._indices.min() >= 0 and self._indices.max() < len(dataset)
        ):
            raise DataError(f"{name}: indices must lie in 0..{len(dataset) - 1}.")

    def __len__(self) -> int:
        return len(self._indices)

    def image(self, index: int) -> npt.NDArray[np.uint8]:
        return self._dataset.image(int(self._indices[index]))

    def target(self, index: int) -> Any:
        return self._dataset.target(int(self._indices[index]))

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self._dataset.fingerprint().encode())
        digest.update(self._indices.tobytes())
        return digest.hexdigest()

    def describe(self, index: int) -> str:
        return self._dataset.describe(int(self._indices[index]))

    def image_hash(self, index: int) -> str:
        return self._dataset.image_hash(int(self._indices[index]))


def split_in_two(
    dataset: ImageDataset, share: float, seed: int
) -> tuple[ImageDataset, ImageDataset]:
    """Training and validation part, ``share`` of each class in the latter (at least one image).

    For data sets with one class number an image. A class with a single image stays in training.
    """
    random = np.random.default_rng(seed)
    targets = np.array([dataset.target(index) for index in range(len(dataset))])
    held: list[int] = []
    for number in range(len(dataset.labels)):
        places = random.permutation(np.flatnonzero(targets == number))
        if len(places) > 1:
            held.extend(places[: max(1, round(share * len(places)))].tolist())
    rest = np.setdiff1d(np.arange(len(dataset)), held)
    return (
        Subset(dataset, rest.tolist(), f"{dataset.name}/train"),
        Subset(dataset, sorted(held), f"{dataset.name}/validation"),
    )
