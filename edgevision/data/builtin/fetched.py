"""Built-in sets that are fetched once and kept in the cache as plain arrays.

In the cache, ``datasets/NAME/`` holds ``train-images.npy``, (N, H, W, C) uint8,
``train-targets.npy``, (N,) int64, the same for ``validation``, and ``manifest.json``, written last:
a folder with a manifest is whole.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgevision.data.arrays import ArrayDataset
from edgevision.data.base import DataSplits
from edgevision.data.builtin.base import BuiltinData, Progress
from edgevision.data.cache import alone
from edgevision.errors import DataError, EdgeVisionError
from edgevision.files import replacing

Arrays = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]
SPLITS = ("train", "validation")

_log = logging.getLogger(__name__)


class FetchedData(BuiltinData):
    """A set from Hugging Face or, where that cannot be reached, from a package.

    Class attributes:
        hub_name, hub_splits: the name on Hugging Face and its names of our two splits.
        content: ``content_digest`` of each split; it does not depend on the order of the images,
            which differs between the places.
        train_blocks: ``content_digest`` of each equal part of the training split in the
            original order, by which parts joined in another order are put right.
    """

    hub_name: ClassVar[str]
    hub_splits: ClassVar[tuple[str, str]]
    content: ClassVar[tuple[str, str]]
    train_blocks: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def from_package(self, downloads: Path, progress: Progress) -> dict[str, Arrays]:
        """Both splits from the package that holds them; downloads are kept in ``downloads``."""

    def folder(self, cache: Path) -> Path:
        """Where the arrays lie."""
        return cache / "datasets" / self.name

    def is_here(self, cache: Path) -> bool:
        return (self.folder(cache) / "manifest.json").is_file()

    def load(self, cache: Path, progress: Progress | None = None) -> DataSplits:
        if not self.is_here(cache):
            _log.warning("'%s' is not here yet: fetching it into %s.", self.name, cache)
            self.fetch(cache, progress)
        folder = self.folder(cache)
        splits = {split: self._open(folder, split) for split in SPLITS}
        return DataSplits(self.name, splits["train"], splits["validation"], self.preprocessing)

    def _open(self, folder: Path, split: str) -> ArrayDataset:
        hint = f"Remove {folder} and run: edgevision data fetch {self.name}"
        try:
            manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
            fingerprint = str(manifest["splits"][split]["fingerprint"])
            # Mapped, not read: pages come as they are used and processes share them.
            images = np.load(folder / f"{split}-images.npy", mmap_mode="r", allow_pickle=False)
            targets = np.load(folder / f"{split}-targets.npy", allow_pickle=False)
            return ArrayDataset(
                f"{self.name}/{split}", images, targets, self.labels, fingerprint=fingerprint
            )
        except (OSError, ValueError, KeyError, TypeError, DataError) as error:
            raise DataError(
                f"The cached copy of '{self.name}' is damaged: {error}", hint=hint
            ) from error

    def fetch(self, cache: Path, progress: Progress | None = None) -> Path:
        """Bring the set into the cache, from the first place that can be reached.

        Returns:
            The folder with the arrays.

        Raises:
            DataError: no place can be reached, or what came is not the set.
        """
        with alone(cache / "downloads" / f"{self.name}.lock"):
            if self.is_here(cache):  # another process was at it
                return self.folder(cache)
            return self._fetch(cache, progress or (lambda _what, _done, _all: None))

    def _fetch(self, cache: Path, progress: Progress) -> Path:
        from edgevision.data.hub import arrays_from_hub

        splits = dict(zip(SPLITS, self.hub_splits, strict=True))
        downloads = cache / "downloads" / self.name
        ways: dict[str, Callable[[], dict[str, Arrays]]] = {
            "Hugging Face": lambda: arrays_from_hub(
                self.hub_name, splits, self.labels, progress, cache
            ),
            "its package": lambda: self.from_package(downloads, progress),
        }
        reasons = []
        for place, way in ways.items():
            try:
                arrays = {split: self._checked(split, *pair) for split, pair in way().items()}
            except EdgeVisionError as error:
                _log.info("%s from %s: %s", self.name, place, error.message)
                reasons.append(f"{place}: {error.message}")
                continue
            folder = self._store(cache, arrays, place, progress)
            shutil.rmtree(downloads, ignore_errors=True)
            return folder
        raise DataError(
            f"'{self.name}' could not be fetched.\n" + "\n".join(f"- {r}" for r in reasons),
            hint="Mend one of these, or copy the folder "
            f"{self.folder(cache)} from a machine that has it.",
        )

    def _checked(
        self, split: str, images: npt.NDArray[np.uint8], targets: npt.NDArray[np.int64]
    ) -> Arrays:
        """The arrays in the original order, when they are the set's."""
        found, wanted = content_digest(images, targets), self._content(split)
        if found != wanted:
            raise DataError(
                f"{self.name}/{split}: the images are not the original's; expected sha256 "
                f"{wanted}, got {found}."
            )
        if split != "train" or not self.train_blocks:
            return images, targets
        size = len(images) // len(self.train_blocks)
        starts = {
            content_digest(images[at : at + size], targets[at : at + size]): at
            for at in range(0, len(images), size)
        }
        if set(starts) != set(self.train_blocks):
            return images, targets
        order = np.concatenate([np.arange(starts[b], starts[b] + size) for b in self.train_blocks])
        return images[order], targets[order]

    def _content(self, split: str) -> str:
        return self.content[SPLITS.index(split)]

    def _store(
        self, cache: Path, arrays: dict[str, Arrays], place: str, progress: Progress
    ) -> Path:
        folder = self.folder(cache)
        shutil.rmtree(folder, ignore_errors=True)  # what a killed process left half-written
        manifest: dict[str, Any] = {"name": self.name, "place": place, "splits": {}}
        for number, (split, (images, targets)) in enumerate(arrays.items()):
            progress("storing", number, len(arrays))
            for kind, array in (("images", images), ("targets", targets)):
                with replacing(folder / f"{split}-{kind}.npy") as file:
                    np.save(file, np.ascontiguousarray(array), allow_pickle=False)
            dataset = ArrayDataset(f"{self.name}/{split}", images, targets, self.labels)
            manifest["splits"][split] = {
                "images": len(images),
                "content": self._content(split),
                "fingerprint": dataset.fingerprint(),
            }
        with replacing(folder / "manifest.json") as file:
            file.write(json.dumps(manifest, indent=2).encode())
        progress("storing", len(arrays), len(arrays))
        return folder


def content_digest(images: npt.NDArray[np.uint8], targets: npt.NDArray[np.int64]) -> str:
    """sha256 hex over the sorted sha256 of each image followed by its target (8 bytes, little)."""
    whole = hashlib.sha256(repr(images.shape[1:]).encode())
    for one in sorted(
        hashlib.sha256(
            np.ascontiguousarray(image).tobytes() + int(target).to_bytes(8, "little")
        ).digest()
        for image, target in zip(images, targets, strict=True)
    ):
        whole.update(one)
    return whole.hexdigest()
