"""What every labelled data set looks like to the rest."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgevision.preprocessing import Preprocessing


class ImageDataset(ABC):
    """One split: images with targets, random access, no torch.

    Attributes:
        name: where it came from, for reports, e.g. ``"cifar10/train"``.
        labels: class names in head order.
    """

    name: str
    labels: tuple[str, ...]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def image(self, index: int) -> npt.NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB; gray images are repeated over the three channels.

        Raises:
            DataError: the file is missing, truncated or no image; names the file.
        """

    @abstractmethod
    def target(self, index: int) -> Any:
        """The task's target; for classification the class number (int)."""

    @abstractmethod
    def fingerprint(self) -> str:
        """sha256 hex over labels, targets and images (or file hashes): the manifest hash."""

    def describe(self, index: int) -> str:
        """The image's name in messages and manifests, e.g. its path."""
        return f"{self.name}[{index}]"

    def image_hash(self, index: int) -> str:
        """sha256 hex that tells the image's content, here of its shape and pixels.

        Equal for equal images of one kind of data set; file based ones may hash the file.
        """
        image = self.image(index)
        digest = hashlib.sha256(repr(image.shape).encode())
        digest.update(np.ascontiguousarray(image).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class DataSplits:
    """A data set as the pipeline takes it.

    Attributes:
        reference: what the user wrote for DATA.
        train, validation: the two splits, disjoint.
        preprocessing: the default for networks trained from scratch on it.
    """

    reference: str
    train: ImageDataset
    validation: ImageDataset
    preprocessing: Preprocessing

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in head order."""
        return self.train.labels


def some_images(
    dataset: ImageDataset, preprocessing: Preprocessing, count: int
) -> npt.NDArray[np.float32]:
    """(N, C, H, W) float32 of at most ``count`` images spread over ``dataset``."""
    picked = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int)
    pixels = np.stack([preprocessing.geometry(dataset.image(int(i))) for i in picked])
    return preprocessing.normalize(pixels)
