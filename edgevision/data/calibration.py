"""Calibration sets: which training images the quantizer sees, drawn by a seed and written down."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from edgevision.data.base import ImageDataset
from edgevision.data.likeness import IMAGES, differences
from edgevision.errors import DataError, UsageError
from edgevision.files import replacing
from edgevision.preprocessing import Float32, Preprocessing
from edgevision.tasks.base import Task

VERSION = 1

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CalibrationSet:
    """Some images of a training split, in a fixed order.

    Attributes:
        dataset: the training split.
        indices: the images' places in it, e.g. ``(4711, 8, …)``.
        classes: the classes each image shows.
        seed: what they were drawn by.
    """

    dataset: ImageDataset
    indices: tuple[int, ...]
    classes: tuple[tuple[int, ...], ...]
    seed: int

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def missing(self) -> tuple[str, ...]:
        """Labels of which no image was drawn."""
        seen = {number for classes in self.classes for number in classes}
        return tuple(label for n, label in enumerate(self.dataset.labels) if n not in seen)

    def manifest(self) -> dict[str, Any]:
        """Plain values for JSON: where the images are from and the sha256 of each."""
        return {
            "version": VERSION,
            "source": self.dataset.name,
            "labels": list(self.dataset.labels),
            "seed": self.seed,
            "count": len(self),
            "images": [
                {
                    "index": index,
                    "name": self.dataset.describe(index),
                    "classes": list(classes),
                    "sha256": self.dataset.image_hash(index),
                }
                for index, classes in zip(self.indices, self.classes, strict=True)
            ],
        }

    @property
    def digest(self) -> str:
        """sha256 hex of the manifest's bytes."""
        return hashlib.sha256(self._bytes()).hexdigest()

    def save(self, path: Path) -> None:
        """Write the manifest as JSON, whole or not at all."""
        with replacing(path) as file:
            file.write(self._bytes())

    def _bytes(self) -> bytes:
        values = self.manifest()
        images = values.pop("images")
        head = json.dumps(values, indent=1, ensure_ascii=False)[:-2]
        # One line an image: a change of the set reads well in a diff.
        rows = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in images)
        return f'{head},\n "images": [\n{rows}\n ]\n}}\n'.encode()

    def batches(self, preprocessing: Preprocessing, batch_size: int) -> Iterator[Float32]:
        """(N, C, H, W) float32 as the network takes them, N at most ``batch_size``.

        One batch is in memory at a time.

        Raises:
            DataError: an image cannot be read.
        """
        if batch_size < 1:
            raise UsageError(f"batch_size must be 1 or more, got {batch_size}.")
        for start in range(0, len(self), batch_size):
            chosen = self.indices[start : start + batch_size]
            yield preprocessing.normalize(
                np.stack([preprocessing.geometry(self.dataset.image(index)) for index in chosen])
            )


def sample_calibration(
    train: ImageDataset,
    task: Task,
    count: int,
    seed: int,
    *,
    validation: ImageDataset | None = None,
    fewer: bool = False,
) -> CalibrationSet:
    """Draw ``count`` images, as evenly over the classes as the data allow.

    Classes take turns, each giving one image at a time, so that any first part of the set is even
    too. An image with several classes counts for its rarest one.

    Args:
        validation: images that are in it as well, by content, are not drawn: quantization must
            not see what it is measured on.
        fewer: take what there is where it is fewer than ``count``.

    Raises:
        DataError: fewer than ``count`` images to draw from, or with ``fewer`` none.
        UsageError: ``count`` below 1 or a negative seed.
    """
    if count < 1 or seed < 0:
        raise UsageError(f"count must be 1 or more and seed 0 or more, got {count} and {seed}.")
    classes = _classes(train, task)
    held_out = _hashes(validation) if validation is not None else frozenset()
    shared = 0

    def keep(index: int) -> bool:
        nonlocal shared
        found = bool(held_out) and train.image_hash(index) in held_out
        shared += found
        return not found

    drawn = list(islice(_even_order(classes, len(train.labels), seed, keep), count))
    if len(drawn) < (1 if fewer else count):
        also = f", {shared} more are in the validation split as well" if shared else ""
        raise DataError(
            f"{train.name}: expected {count} images for calibration, got {len(drawn)}{also}.",
            hint=f"Ask for {len(drawn)} or fewer." if drawn else "Give it other training images.",
        )
    chosen = CalibrationSet(train, tuple(drawn), tuple(classes[i] for i in drawn), seed)
    _warn(chosen, classes)
    return chosen


def _classes(train: ImageDataset, task: Task) -> list[tuple[int, ...]]:
    return [tuple(task.classes_of(train.target(index))) for index in range(len(train))]


def _even_order(
    classes: Sequence[Sequence[int]],
    labels: int,
    seed: int,
    keep: Callable[[int], bool] = lambda index: True,
) -> Iterator[int]:
    """All images to ``keep``: classes take turns, each gives one, in an order drawn by ``seed``."""
    frequency = np.zeros(labels, np.int64)
    for shown in classes:
        frequency[list(set(shown))] += 1
    # Images without a class, such as empty scenes, take a turn of their own.
    groups: dict[int, list[int]] = {}
    for index, shown in enumerate(classes):
        rarest = min(shown, key=lambda number: (frequency[number], number), default=-1)
        groups.setdefault(rarest, []).append(index)
    random = np.random.default_rng(seed)
    queues = [
        filter(keep, [groups[key][place] for place in random.permutation(len(groups[key]))])
        for key in sorted(groups)
    ]
    while queues:
        for queue in list(queues):
            found = next(queue, None)
            if found is None:
                queues.remove(queue)
            else:
                yield found


def _hashes(dataset: ImageDataset) -> frozenset[str]:
    return frozenset(dataset.image_hash(index) for index in range(len(dataset)))


def _warn(chosen: CalibrationSet, classes: Sequence[Sequence[int]]) -> None:
    """Tell what makes a calibration set doubtful; ``classes`` of all the training images."""
    if chosen.missing:
        _log.warning(
            "The calibration set of %d images has none of class %s.",
            len(chosen),
            ", ".join(chosen.missing),
        )
    order = _even_order(classes, len(chosen.dataset.labels), chosen.seed + 1)
    reference = list(islice(order, max(IMAGES, len(chosen))))
    if found := differences(chosen, chosen.dataset, classes, reference):
        _log.warning(
            "The calibration set of %d images looks unlike %s: %s.",
            len(chosen),
            chosen.dataset.name,
            "; ".join(found),
        )


def load_calibration(
    path: Path,
    train: ImageDataset,
    task: Task,
    *,
    validation: ImageDataset | None = None,
) -> CalibrationSet:
    """The calibration set that the manifest at ``path`` describes.

    Classes that are missing, and images that look unlike the training images, are told as by
    ``sample_calibration``.

    Args:
        validation: none of the images may be in it as well, by content.

    Raises:
        DataError: no manifest, one without images, one of other images than ``train`` has, or one
            with images of ``validation``.
    """
    try:
        values = json.loads(path.read_text("utf-8"))
        version, seed, images = values["version"], int(values["seed"]), values["images"]
        rows = [(int(row["index"]), str(row["sha256"])) for row in images]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: no calibration manifest ({error!r}).") from error
    if version != VERSION:
        raise DataError(f"{path}: expected version {VERSION}, got {version!r}.")
    if not rows or seed < 0:
        raise DataError(f"{path}: expected images and a seed, got {len(rows)} and {seed}.")
    for index, expected in rows:
        found = train.image_hash(index) if 0 <= index < len(train) else "no such image"
        if found != expected:
            raise DataError(
                f"{path}: image {index} of {train.name} is another one; expected sha256 "
                f"{expected}, got {found}.",
                hint="Make a manifest for this data: edgevision data calibration --help",
            )
    held_out = _hashes(validation) if validation is not None else frozenset()
    if shared := [train.describe(index) for index, sha256 in rows if sha256 in held_out]:
        more = f" and {len(shared) - 5} more" if len(shared) > 5 else ""
        raise DataError(
            f"{path}: {len(shared)} of its {len(rows)} images are in the validation split as well: "
            f"{', '.join(shared[:5])}{more}.",
            hint="Make a manifest without them: edgevision data calibration --help",
        )
    classes = _classes(train, task)
    indices = tuple(index for index, _ in rows)
    chosen = CalibrationSet(train, indices, tuple(classes[index] for index in indices), seed)
    _warn(chosen, classes)
    return chosen
