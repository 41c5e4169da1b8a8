"""Batches for training and evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgevision.data.arrays import array_bytes, as_array
from edgevision.data.augment import AugmentConfig, augment, mix
from edgevision.data.base import ImageDataset
from edgevision.errors import DataError, UsageError
from edgevision.preprocessing import Preprocessing
from edgevision.tasks.base import Task

_ORDER, _STEP = 0, 1  # what a random stream is for: no two streams share their numbers


def normalize_torch(batch: Tensor, preprocessing: Preprocessing) -> Tensor:
    """(N, C, H, W) uint8 to float32 of the same shape, strides and device.

    Bit-equal to ``Preprocessing.normalize``: one rounded product, one rounded sum.
    """
    scale, shift = (
        torch.from_numpy(values.copy()).view(-1, 1, 1).to(batch.device)
        for values in (preprocessing.scale, preprocessing.shift)
    )
    return batch.to(torch.float32).mul_(scale).add_(shift)


def class_counts(dataset: ImageDataset, task: Task) -> npt.NDArray[np.int64]:
    """(classes,) how many images show each class."""
    counts = np.zeros(len(dataset.labels), np.int64)
    for index in range(len(dataset)):
        for number in set(task.classes_of(dataset.target(index))):
            counts[number] += 1
    return counts


def class_weights(dataset: ImageDataset, task: Task) -> tuple[float, ...]:
    """One loss weight a class, inverse to its number of images, mean 1.

    Raises:
        DataError: a class has no image.
    """
    counts = class_counts(dataset, task)
    if not counts.all():
        empty = [label for label, count in zip(dataset.labels, counts, strict=True) if not count]
        raise DataError(
            f"{dataset.name}: no image of class {', '.join(empty)}, so it can have no weight.",
            hint="Add images of it, remove the class, or train without class weights.",
        )
    weights = 1 / counts
    return tuple(float(w) for w in weights / weights.mean())


class BatchLoader:
    """Iterates over one epoch as ``(images, targets)``.

    ``images`` is (N, C, H, W) float32, normalized, in channels-last strides; ``targets`` is what
    ``task.collate`` makes, or soft targets (N, classes) with mixup or cutmix. What a batch holds
    depends on ``seed``, the epoch and the step alone, so an epoch can be carried on at any step.

    Args:
        dataset: the split.
        preprocessing: geometry and normalization.
        task: for targets and classes.
        batch_size: images a batch and process.
        seed: of order and augmentation.
        train: shuffle, drop the last batch when it is not full (unless it is the only one).
        augment: for training images, None for none.
        balanced: draw images with replacement so that every class is as frequent as the others.
        rank, world_size: this process and how many there are; each has its own part of every
            step, and all have the same number of steps when ``train`` is true.
        workers: threads that decode images of a set too large for memory.
        memory_limit_mb: a set that is smaller after geometry is held in memory.
        progress: called with images read and images in all while such a set is read.

    Raises:
        UsageError: arguments out of range.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        preprocessing: Preprocessing,
        task: Task,
        batch_size: int,
        *,
        seed: int = 0,
        train: bool = False,
        augment: AugmentConfig | None = None,
        balanced: bool = False,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 2,
        memory_limit_mb: int = 1024,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        if batch_size < 1 or workers < 1 or not 0 <= rank < world_size or seed < 0:
            raise UsageError(
                "BatchLoader: wants batch_size and workers of 1 or more, a seed of 0 or more and "
                f"rank below world_size; got batch_size={batch_size}, workers={workers}, "
                f"seed={seed}, rank={rank}, world_size={world_size}."
            )
        if not train and (augment is not None or balanced):
            raise UsageError("BatchLoader: augmentation and balancing are for train=True.")
        self.dataset = dataset
        self.preprocessing = preprocessing
        self.task = task
        self.batch_size = batch_size
        self.seed = seed
        self.train = train
        self.augment = augment
        self.rank = rank
        self.world_size = world_size
        self.workers = workers
        self._epoch = 0
        self._start = 0
        self._targets: list[Any] = [dataset.target(index) for index in range(len(dataset))]
        self._chances = self._even_chances() if balanced else None
        small = array_bytes(dataset, preprocessing) <= memory_limit_mb * 2**20
        self._array = as_array(dataset, preprocessing, progress=progress) if small else None

    def _even_chances(self) -> npt.NDArray[np.float64]:
        """(N,) probability of each image; one with several classes counts by its rarest."""
        counts = class_counts(self.dataset, self.task)
        chances = np.array(
            [
                max((1 / counts[c] for c in self.task.classes_of(target)), default=0.0)
                for target in self._targets
            ]
        )
        chances[chances == 0] = chances[chances > 0].min(initial=1.0)
        even: npt.NDArray[np.float64] = chances / chances.sum()
        return even

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """Iterate over ``epoch`` (from 0) next, beginning at ``start_step``."""
        if epoch < 0 or not 0 <= start_step <= len(self):
            raise UsageError(f"BatchLoader: no epoch {epoch} with step {start_step}.")
        self._epoch, self._start = epoch, start_step

    def __len__(self) -> int:
        """Steps of a whole epoch."""
        step = self.batch_size * self.world_size
        if self.train:
            return max(1, len(self.dataset) // step)
        return math.ceil(math.ceil(len(self.dataset) / self.world_size) / self.batch_size)

    def indices(self, step: int) -> npt.NDArray[np.int64]:
        """The images of this process's batch ``step`` of the current epoch, (N,)."""
        return self._batch(self._order(), step)

    def _order(self) -> npt.NDArray[np.int64]:
        count = len(self.dataset)
        if not self.train:
            return np.arange(count, dtype=np.int64)
        random = np.random.default_rng([self.seed, self._epoch, _ORDER])
        if self._chances is not None:
            return random.choice(count, count, p=self._chances)
        return random.permutation(count)

    def _batch(self, order: npt.NDArray[np.int64], step: int) -> npt.NDArray[np.int64]:
        if not self.train:
            mine = order[self.rank :: self.world_size]
            return mine[step * self.batch_size : (step + 1) * self.batch_size]
        size = self.batch_size * self.world_size
        return order[step * size : (step + 1) * size][self.rank :: self.world_size]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order, epoch = self._order(), self._epoch
        steps = range(self._start, len(self))
        batches = (self._batch(order, step) for step in steps)
        pixels = self._held(batches) if self._array is not None else self._decoded(batches)
        for step, (indices, batch) in zip(steps, pixels, strict=True):
            yield self._finish(indices, torch.from_numpy(batch), epoch, step)

    def _held(
        self, batches: Iterator[npt.NDArray[np.int64]]
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]]:
        assert self._array is not None
        for indices in batches:
            yield indices, self._array[indices]

    def _decoded(
        self, batches: Iterator[npt.NDArray[np.int64]]
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]]:
        """Decode in threads, one batch ahead of the one in use."""

        def one(index: int) -> npt.NDArray[np.uint8]:
            return self.preprocessing.geometry(self.dataset.image(index))

        with ThreadPoolExecutor(self.workers) as pool:
            ahead = None
            for indices in batches:
                futures = [pool.submit(one, int(index)) for index in indices]
                if ahead is not None:
                    yield ahead[0], np.stack([future.result() for future in ahead[1]])
                ahead = indices, futures
            if ahead is not None:
                yield ahead[0], np.stack([future.result() for future in ahead[1]])

    def _finish(
        self, indices: npt.NDArray[np.int64], batch: Tensor, epoch: int, step: int
    ) -> tuple[Tensor, Tensor]:
        random = np.random.default_rng([self.seed, epoch, _STEP, step, self.rank])
        config = self.augment
        if config is not None:
            batch = augment(
                batch,
                config,
                self.preprocessing,
                random,
                indices=indices,
                seed=self.seed,
                epoch=epoch,
            )
        images = normalize_torch(batch.permute(0, 3, 1, 2), self.preprocessing)
        targets = self.task.collate([self._targets[index] for index in indices])
        if config is not None and (config.mixup or config.cutmix):
            return mix(images, targets, config, len(self.dataset.labels), random)
        return images, targets
