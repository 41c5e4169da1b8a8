"""Data sets of Hugging Face, by name, and folders of parquet: both through ``datasets``.

Columns are found by their type and, where more than one would do, named by the user:
``owner/name?label=fine_label&image=photo&config=plain``.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import numpy as np
import numpy.typing as npt

from edgevision.data.base import ImageDataset
from edgevision.data.builtin.base import Progress
from edgevision.data.images import decode_image
from edgevision.errors import DataError
from edgevision.lazy import require

if TYPE_CHECKING:
    import datasets

_PROBE_S = 5  # a hub that does not answer in this time counts as not reachable
_LABEL_NAMES = ("label", "labels", "class", "target", "category")
_TRAIN = ("train", "training")
_VALIDATION = ("validation", "valid", "val", "test")
_CHOICES = ("image", "label", "config")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """What the user said about columns and configuration; None where nothing was said."""

    image: str | None = None
    label: str | None = None
    config: str | None = None


def parse_reference(reference: str) -> tuple[str, Choice]:
    """Split ``owner/name?label=x`` into the name and the choices.

    Raises:
        DataError: an unknown choice.
    """
    name, _, query = reference.partition("?")
    chosen = dict(parse_qsl(query))
    if unknown := sorted(set(chosen) - set(_CHOICES)):
        raise DataError(
            f"'{reference}': unknown choice {', '.join(unknown)}.",
            hint=f"After '?' may stand {', '.join(f'{choice}=NAME' for choice in _CHOICES)}, "
            "joined by '&'.",
        )
    return name, Choice(**chosen)


class HubDataset(ImageDataset):
    """One split of a ``datasets.Dataset`` with an image column and a label column.

    Args:
        name: for reports.
        table: the split, its image column not decoded.
        image: name of the image column.
        targets: (N,) class numbers.
        labels: class names in head order.
    """

    def __init__(
        self,
        name: str,
        table: datasets.Dataset,
        image: str,
        targets: npt.NDArray[np.int64],
        labels: tuple[str, ...],
    ) -> None:
        self.name = name
        self.labels = labels
        self._column = table.select_columns([image])
        self._image = image
        self._targets = targets
        self._fingerprint: str | None = None

    def __len__(self) -> int:
        return len(self._targets)

    def image(self, index: int) -> npt.NDArray[np.uint8]:
        return decode_image(self._content(index), name=self.describe(index))

    def target(self, index: int) -> int:
        return int(self._targets[index])

    def image_hash(self, index: int) -> str:
        """sha256 hex of the encoded image."""
        return hashlib.sha256(self._content(index)).hexdigest()

    def fingerprint(self) -> str:
        if self._fingerprint is None:
            digest = hashlib.sha256(repr(self.labels).encode())
            digest.update(self._targets.tobytes())
            for index in range(len(self)):
                digest.update(self.image_hash(index).encode())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def _content(self, index: int) -> bytes:
        value = self._column[index][self._image]
        if isinstance(value, Mapping):
            content, path = value.get("bytes"), value.get("path")
            if content is None and path:
                value = Path(path).read_bytes() if Path(path).is_file() else None
            else:
                value = content
        if not isinstance(value, bytes):
            raise DataError(f"{self.describe(index)}: the row holds no image.")
        return value


def open_hub(name: str, choice: Choice, cache: Path) -> tuple[ImageDataset, ImageDataset | None]:
    """The data set ``name`` of Hugging Face: training and validation split, or one set and None.

    Raises:
        DataError: it cannot be reached, does not exist, or has no image and label column.
    """
    return _two(name, _load(name, choice, cache), choice)


def open_parquet(
    place: Path, choice: Choice, cache: Path
) -> tuple[ImageDataset, ImageDataset | None]:
    """A folder of parquet files; splits are told by file or folder names as ``datasets`` does.

    Raises:
        DataError: a damaged file, or no image and label column.
    """
    return _two(place.name, _load(str(place.resolve()), choice, cache), choice)


def arrays_from_hub(
    name: str, splits: Mapping[str, str], labels: tuple[str, ...], progress: Progress, cache: Path
) -> dict[str, tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]]:
    """A set of equally sized images as arrays: (N, H, W, 1 or 3) uint8 and (N,) int64 a split.

    Args:
        splits: our split name → the name on the hub.
        labels: class names the set should have, compared in number only: the spelling differs.

    Raises:
        DataError: as ``open_hub``, or images of several sizes.
    """
    tables = _load(name, Choice(), cache)
    result = {}
    for split, theirs in splits.items():
        if theirs not in tables:
            raise DataError(f"{name}: expected a split '{theirs}', got {', '.join(tables)}.")
        dataset = _open(f"{name}/{theirs}", tables[theirs], Choice(), None)
        if len(dataset.labels) != len(labels):
            raise DataError(f"{name}: expected {len(labels)} classes, got {len(dataset.labels)}.")
        images = np.empty((len(dataset), *dataset.image(0).shape), np.uint8)
        for index in range(len(dataset)):
            image = dataset.image(index)
            if image.shape != images.shape[1:]:
                raise DataError(
                    f"{dataset.describe(index)}: expected the size of the first image, "
                    f"{images.shape[1:]}, got {image.shape}."
                )
            images[index] = image
            if index % 500 == 0 or index + 1 == len(dataset):
                progress(f"decoding {split}", index + 1, len(dataset))
        if (images[..., :1] == images).all():
            images = images[..., :1]
        result[split] = images, np.array([dataset.target(i) for i in range(len(dataset))], np.int64)
    return result


def _load(place: str, choice: Choice, cache: Path) -> Mapping[str, datasets.Dataset]:
    """``datasets.load_dataset`` with every failure of it and of the hub as ``DataError``."""
    if not Path(place).exists():
        _probe(place)
    library = require("datasets")
    try:
        loaded: Mapping[str, datasets.Dataset] = library.load_dataset(
            place, choice.config, cache_dir=str(cache / "huggingface")
        )
    except Exception as error:  # any of a dozen types of three libraries, none of them ours
        _log.debug("datasets could not load %s", place, exc_info=True)
        cause = error.__cause__ or error
        raise DataError(
            f"'{place}' cannot be read by Hugging Face datasets: {_first_line(cause)}"
        ) from error
    return loaded


def _probe(name: str) -> None:
    """Fail fast: ``datasets`` itself tries for half a minute when there is no network."""
    hub = require("huggingface_hub")
    if hub.is_offline_mode():  # HF_HUB_OFFLINE: what lies in the cache may still be read
        return
    try:
        hub.HfApi().dataset_info(name, timeout=_PROBE_S)
    except hub.errors.RepositoryNotFoundError as error:
        raise DataError(
            f"Hugging Face has no public data set '{name}'.",
            hint="Check the spelling; for a private one log in with: hf auth login",
        ) from error
    except hub.errors.HFValidationError as error:
        raise DataError(f"'{name}' is no name of a data set: {_first_line(error)}") from error
    except Exception as error:  # the HTTP library's own tree, which changes between versions
        raise DataError(
            f"Hugging Face cannot be reached: {_first_line(error)}",
            hint=f"When '{name}' was loaded on this machine before, set HF_HUB_OFFLINE=1.",
        ) from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _two(
    name: str, tables: Mapping[str, datasets.Dataset], choice: Choice
) -> tuple[ImageDataset, ImageDataset | None]:
    train = next((tables[split] for split in _TRAIN if split in tables), None)
    if train is None:
        if len(tables) != 1:
            raise DataError(f"{name}: expected a split 'train', got {', '.join(tables)}.")
        train = next(iter(tables.values()))
    validation = next((tables[split] for split in _VALIDATION if split in tables), None)
    if validation is None or validation is train:
        return _open(name, train, choice, None), None
    first = _open(f"{name}/train", train, choice, None)
    return first, _open(f"{name}/validation", validation, choice, first.labels)


def _open(
    name: str, table: datasets.Dataset, choice: Choice, labels: tuple[str, ...] | None
) -> HubDataset:
    library = require("datasets")
    image = _image_column(name, table, choice)
    label = _label_column(name, table, choice, image)
    if isinstance(table.features[image], library.Image):
        table = table.cast_column(image, library.Image(decode=False))
    targets, labels = _targets(name, table, label, labels)
    return HubDataset(name, table, image, targets, labels)


def _image_column(name: str, table: datasets.Dataset, choice: Choice) -> str:
    library = require("datasets")
    features = table.features
    typed = [column for column, kind in features.items() if isinstance(kind, library.Image)]
    # Parquet that was written without the hub's metadata: encoded bytes, bare or in a struct.
    bare = [
        column
        for column, kind in features.items()
        if (isinstance(kind, dict) and "bytes" in kind)
        or getattr(kind, "dtype", None) in ("binary", "large_binary")
    ]
    return _one(name, table, "image", choice.image, typed or bare)


def _label_column(name: str, table: datasets.Dataset, choice: Choice, image: str) -> str:
    library = require("datasets")
    features = {column: kind for column, kind in table.features.items() if column != image}
    typed = [column for column, kind in features.items() if isinstance(kind, library.ClassLabel)]
    plain = [
        column
        for column, kind in features.items()
        if str(getattr(kind, "dtype", "")).startswith(("int", "uint", "string", "bool"))
    ]
    named = [column for column in plain if column.lower() in _LABEL_NAMES]
    return _one(name, table, "label", choice.label, typed or named or plain)


def _one(
    name: str, table: datasets.Dataset, role: str, chosen: str | None, candidates: list[str]
) -> str:
    columns = ", ".join(f"{column} ({_kind(kind)})" for column, kind in table.features.items())
    if chosen is not None:
        if chosen not in table.features:
            raise DataError(f"{name}: no column '{chosen}'. Columns: {columns}.")
        return chosen
    if len(candidates) != 1:
        found = f"{len(candidates)} could be it" if candidates else "none could be it"
        raise DataError(
            f"{name}: which column is the {role}? {found}. Columns: {columns}.",
            hint=f"Name it after the data set: 'DATA?{role}=COLUMN'.",
        )
    return candidates[0]


def _kind(feature: Any) -> str:
    return str(getattr(feature, "dtype", None) or type(feature).__name__)


def _targets(
    name: str, table: datasets.Dataset, column: str, labels: tuple[str, ...] | None
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Class numbers and names: the column's own, else its sorted values."""
    values = list(table[column])
    if not values:
        raise DataError(f"{name}: no rows.")
    names = getattr(table.features[column], "names", None)
    if names:
        wrong = [row for row, v in enumerate(values) if v is None or not 0 <= v < len(names)]
        if not wrong:
            return np.array(values, np.int64), tuple(names)
        expected = f"a number from 0 to {len(names) - 1}"
    else:
        known = sorted({v for v in values if v is not None}) if labels is None else None
        if labels is None:
            labels = tuple(str(value) for value in known or ())
        numbers = {label: number for number, label in enumerate(labels)}
        wrong = [row for row, v in enumerate(values) if str(v) not in numbers or v is None]
        if not wrong:
            return np.array([numbers[str(value)] for value in values], np.int64), labels
        expected = f"one of {', '.join(labels[:20])}"
    raise DataError(
        f"{name}: row {wrong[0]} has the label {values[wrong[0]]!r} in column '{column}', "
        f"expected {expected}; {len(wrong)} of {len(values)} rows are so.",
        hint="Remove these rows, or give them a label.",
    )
