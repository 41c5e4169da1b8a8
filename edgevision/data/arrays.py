"""Data sets held as arrays, and any data set as one array after geometry."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from edgevision.data.base import ImageDataset
from edgevision.errors import DataError
from edgevision.preprocessing import Preprocessing

Uint8 = npt.NDArray[np.uint8]


class ArrayDataset(ImageDataset):
    """A split whose images all have one size and lie in one array, in memory or mapped.

    Args:
        name: e.g. ``"cifar10/train"``.
        images: (N, H, W, C) uint8 with C 1 (gray) or 3 (RGB).
        targets: N class numbers.
        labels: class names in head order.
        fingerprint: sha256 hex of the content where it is known already; computed otherwise.

    Raises:
        DataError: shapes, dtypes or counts that do not fit.
    """

    def __init__(
        self,
        name: str,
        images: npt.NDArray[Any],
        targets: npt.NDArray[Any],
        labels: tuple[str, ...],
        *,
        fingerprint: str | None = None,
    ) -> None:
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
            raise DataError(
                f"{name}: images must be uint8 of shape (N, H, W, 1 or 3), "
                f"got {images.dtype} of shape {images.shape}."
            )
        if targets.ndim != 1 or not np.issubdtype(targets.dtype, np.integer):
            raise DataError(
                f"{name}: targets must be a row of class numbers, "
                f"got {targets.dtype} of shape {targets.shape}."
            )
        if len(images) != len(targets) or not len(images):
            raise DataError(
                f"{name}: as many targets as images are wanted, and at least one; "
                f"got {len(images)} images and {len(targets)} targets."
            )
        self.name = name
        self.labels = labels
        self.images: Uint8 = images
        self.targets = targets
        self._fingerprint = fingerprint

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> Uint8:
        image = np.asarray(self.images[index])
        return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image

    def target(self, index: int) -> int:
        return int(self.targets[index])

    def fingerprint(self) -> str:
        if self._fingerprint is None:
            digest = hashlib.sha256(repr((self.labels, self.images.shape)).encode())
            digest.update(np.ascontiguousarray(self.targets, np.int64).tobytes())
            for start in range(0, len(self.images), 4096):
                digest.update(np.ascontiguousarray(self.images[start : start + 4096]).tobytes())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint


_made: WeakKeyDictionary[ImageDataset, dict[Preprocessing, Uint8]] = WeakKeyDictionary()
_lock = threading.Lock()


def array_bytes(dataset: ImageDataset, preprocessing: Preprocessing) -> int:
    """How many bytes ``as_array`` takes."""
    return len(dataset) * int(np.prod(preprocessing.input_shape))


def as_array(
    dataset: ImageDataset,
    preprocessing: Preprocessing,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Uint8:
    """All images after ``preprocessing.geometry``: (N, H, W, C) uint8, read-only use.

    The array is made once per data set and geometry and kept as long as the data set lives.
    Where the stored array has the right form already, it is that array, not a copy.

    Args:
        progress: called with images done and images in all.

    Raises:
        DataError: an image cannot be read.
    """
    with _lock:
        known = _made.setdefault(dataset, {})
        key = preprocessing.geometry_only()
        if key not in known:
            known[key] = _make(dataset, preprocessing, progress)
        return known[key]


def _make(
    dataset: ImageDataset,
    preprocessing: Preprocessing,
    progress: Callable[[int, int], None] | None,
) -> Uint8:
    if isinstance(dataset, ArrayDataset) and _fits(dataset.images, preprocessing):
        return dataset.images
    channels, height, width = preprocessing.input_shape
    out = np.empty((len(dataset), height, width, channels), np.uint8)
    for index in range(len(dataset)):
        out[index] = preprocessing.geometry(dataset.image(index))
        if progress is not None:
            progress(index + 1, len(dataset))
    return out


def _fits(images: Uint8, preprocessing: Preprocessing) -> bool:
    """Whether geometry leaves these images as they are (a repeated gray is its own luma)."""
    channels, height, width = preprocessing.input_shape
    unscaled = preprocessing.resize != "crop" or preprocessing.crop_fraction == 1
    return unscaled and images.shape[1:] == (height, width, channels)
