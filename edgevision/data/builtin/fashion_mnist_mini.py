"""A class-balanced part of Fashion-MNIST that ships with the package (MIT, Zalando SE)."""

from __future__ import annotations

import hashlib
import json
from importlib import resources
from pathlib import Path

import numpy as np

from edgevision.data.arrays import ArrayDataset
from edgevision.data.base import DataSplits
from edgevision.data.builtin.base import BuiltinData, Progress
from edgevision.data.builtin.fashion_mnist import LABELS, PREPROCESSING
from edgevision.data.idx import read_idx
from edgevision.errors import DataError


class FashionMnistMini(BuiltinData):
    """Training images from the original's training part, validation from its test part."""

    name = "fashion-mnist-mini"
    summary = "12 000 + 3 000 pictures, 28x28 gray, ten classes; in the package"
    labels = LABELS
    preprocessing = PREPROCESSING

    def is_here(self, cache: Path) -> bool:
        return True

    def load(self, cache: Path, progress: Progress | None = None) -> DataSplits:
        train, validation = (self._open(split) for split in ("train", "validation"))
        return DataSplits(self.name, train, validation, self.preprocessing)

    def _open(self, split: str) -> ArrayDataset:
        folder = resources.files("edgevision.data") / "files" / "fashion-mnist-mini"
        arrays = {}
        try:
            hashes = json.loads((folder / "manifest.json").read_text("utf-8"))["sha256"]
            for kind in ("images", "labels"):
                name = f"{split}-{kind}.idx.gz"
                content = (folder / name).read_bytes()
                found = hashlib.sha256(content).hexdigest()
                if found != hashes[name]:
                    raise DataError(f"{name}: expected sha256 {hashes[name]}, got {found}.")
                arrays[kind] = read_idx(content, name)
        except (OSError, ValueError, KeyError, DataError) as error:
            raise DataError(
                f"The data set '{self.name}' of this installation is damaged: {error}",
                hint="Install the package again: pip install --force-reinstall edgevision",
            ) from error
        return ArrayDataset(
            f"{self.name}/{split}",
            arrays["images"][..., None],
            arrays["labels"].astype(np.int64),
            self.labels,
        )
