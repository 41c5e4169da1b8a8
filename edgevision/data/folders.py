"""Folders of images: one folder a class."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgevision.data.base import ImageDataset
from edgevision.data.images import SUFFIXES, decode_image
from edgevision.errors import DataError

TRAIN_NAMES = ("train", "training")
VALIDATION_NAMES = ("validation", "valid", "val", "test")  # the first that is there is taken

_LAYOUT = (
    "Expected FOLDER/CLASS/image.png, or FOLDER/train/CLASS/image.png and the same under "
    f"one of {', '.join(VALIDATION_NAMES)}."
)


class FolderDataset(ImageDataset):
    """Image files with one class number each, decoded when asked for.

    Args:
        name: for reports.
        root: what the paths are relative to.
        files: (path relative to ``root`` with forward slashes, class number).
        labels: class names in head order.
    """

    def __init__(
        self, name: str, root: Path, files: list[tuple[str, int]], labels: tuple[str, ...]
    ) -> None:
        self.name = name
        self.labels = labels
        self._root = root
        self._files = files
        self._hashes: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._files)

    def image(self, index: int) -> npt.NDArray[np.uint8]:
        return decode_image(self._root / self._files[index][0])

    def target(self, index: int) -> int:
        return self._files[index][1]

    def describe(self, index: int) -> str:
        return self._files[index][0]

    def image_hash(self, index: int) -> str:
        """sha256 hex of the file."""
        if index not in self._hashes:
            path = self._root / self._files[index][0]
            try:
                self._hashes[index] = hashlib.sha256(path.read_bytes()).hexdigest()
            except OSError as error:
                raise DataError(f"{path}: the file cannot be read ({error}).") from error
        return self._hashes[index]

    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr(self.labels).encode())
        for index, (path, target) in enumerate(self._files):
            digest.update(f"{path}\0{target}\0{self.image_hash(index)}\n".encode())
        return digest.hexdigest()


def open_folder(root: Path) -> tuple[ImageDataset, ImageDataset | None]:
    """The data set of an image folder: training and validation split, or one set and None.

    A class is a folder; images may lie at any depth below it. Labels are the sorted names of the
    class folders of both splits.

    Raises:
        DataError: no class folders, or one without an image.
    """
    folders = {path.name.lower(): path for path in _subfolders(root)}
    train = next((folders[name] for name in TRAIN_NAMES if name in folders), None)
    if train is None:
        labels = tuple(path.name for path in _subfolders(root))
        return _split(root.name, root, root, labels), None
    validation = next((folders[name] for name in VALIDATION_NAMES if name in folders), None)
    if validation is None:
        labels = tuple(path.name for path in _subfolders(train))
        return _split(root.name, root, train, labels), None
    names = {path.name for part in (train, validation) for path in _subfolders(part)}
    labels = tuple(sorted(names))
    return (
        _split(f"{root.name}/train", root, train, labels),
        _split(f"{root.name}/validation", root, validation, labels),
    )


def _split(name: str, root: Path, folder: Path, labels: tuple[str, ...]) -> FolderDataset:
    files, empty = [], []
    for number, label in enumerate(labels):
        images = _images(folder / label)
        files += [(path.relative_to(root).as_posix(), number) for path in images]
        if not images and (folder / label).is_dir():
            empty.append(label)
    if files and empty:
        raise DataError(
            f"{folder}: no image in the class folder {', '.join(empty)}; "
            f"images end in {', '.join(sorted(SUFFIXES))}.",
            hint="Add images, or remove the folder.",
        )
    if files:
        return FolderDataset(name, root, files, labels)
    loose = next(_images_of(folder), None)
    found = f"{loose.name} lies there without a class folder" if loose else "no image is there"
    raise DataError(
        f"{folder}: {found}; images end in {', '.join(sorted(SUFFIXES))}.", hint=_LAYOUT
    )


def _subfolders(folder: Path) -> list[Path]:
    return sorted(
        (path for path in folder.iterdir() if path.is_dir() and _is_shown(path.name)),
        key=lambda path: path.name,
    )


def _is_shown(name: str) -> bool:
    return not name.startswith((".", "__"))


def _images_of(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES)


def _images(folder: Path) -> list[Path]:
    """Image files at any depth, sorted by path; links to folders are not followed."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if _is_shown(name)]
        found += [
            Path(place) / name
            for name in names
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES
        ]
    return sorted(found)
