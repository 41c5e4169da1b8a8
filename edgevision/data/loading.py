"""From what the user wrote for DATA to the two splits."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from edgevision.data.base import DataSplits, ImageDataset
from edgevision.data.builtin import BUILTIN
from edgevision.data.builtin.base import Progress
from edgevision.data.cache import cache_folder
from edgevision.data.subset import split_in_two
from edgevision.errors import DataError, unknown_name
from edgevision.preprocessing import Preprocessing

VALIDATION_SHARE = 0.2

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(\?.*)?", re.ASCII)


def load_data(
    reference: str,
    *,
    cache: Path | None = None,
    image_size: tuple[int, int] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> DataSplits:
    """Open a data set and check that a network can be trained on it.

    Args:
        reference: a built-in name (``edgevision data list``); a folder with ``train`` and
            ``validation`` (or ``valid``, ``val``, ``test``) of class folders; one folder of class
            folders, split 80 to 20 in each class by ``seed``; a folder of parquet; or the name of
            a data set of Hugging Face, ``owner/name``. For the last two ``?label=COLUMN``,
            ``image=COLUMN`` and ``config=NAME`` may follow.
        cache: where fetched sets are kept; see ``edgevision.data.cache.cache_folder``.
        image_size: (height, width) of the network input instead of the default: the set's own for
            built-in names, 224x224 for others.
        progress: called with what is being done, how much is done, and how much there is.

    Raises:
        DataError: not found, not reachable, without images, with fewer than two classes, or with
            other classes in one split than in the other.
    """
    splits = open_data(reference, cache=cache, image_size=image_size, seed=seed, progress=progress)
    require_usable(splits)
    return splits


def open_data(
    reference: str,
    *,
    cache: Path | None = None,
    image_size: tuple[int, int] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> DataSplits:
    """``load_data`` without its last checks: what ``check_data`` reports on.

    Raises:
        DataError: not found, not reachable, or without images.
    """
    place = cache_folder(cache)
    if reference in BUILTIN:
        splits = BUILTIN.get(reference)().load(place, progress)
        if image_size is None:
            return splits
        size = replace(splits.preprocessing, height=image_size[0], width=image_size[1])
        return replace(splits, preprocessing=size)
    train, validation = _open(reference, place)
    if validation is None:
        train, validation = split_in_two(train, VALIDATION_SHARE, seed)
    height, width = image_size or (224, 224)
    preprocessing = Preprocessing(
        height=height, width=width, resize="crop", mean=_IMAGENET_MEAN, std=_IMAGENET_STD
    )
    return DataSplits(reference, train, validation, preprocessing)


def _open(reference: str, cache: Path) -> tuple[ImageDataset, ImageDataset | None]:
    from edgevision.data.folders import open_folder
    from edgevision.data.hub import open_hub, open_parquet, parse_reference

    name, choice = parse_reference(reference)
    path = Path(name).expanduser()
    if name and path.is_dir():
        if any(next(path.glob(depth), None) for depth in ("*.parquet", "*/*.parquet")):
            return open_parquet(path, choice, cache)
        return open_folder(path)
    if name and path.exists():
        raise DataError(f"'{reference}' is a file; expected a folder of images or of parquet.")
    if _HUB_NAME.fullmatch(reference) and not reference.startswith("."):
        return open_hub(name, choice, cache)
    if "/" in reference or "\\" in reference or reference.startswith(("~", ".")):
        raise DataError(f"There is no folder '{path}'.")
    raise DataError(
        unknown_name("data set", reference, BUILTIN),
        hint="It may also be a folder of images or parquet, or a Hugging Face name: owner/name.",
    )


def require_usable(splits: DataSplits) -> None:
    """Check that both splits show the same two or more classes, one class number an image.

    Raises:
        DataError: they do not; the message names the classes.
    """
    seen = [
        {split.labels[split.target(index)] for index in range(len(split))}
        for split in (splits.train, splits.validation)
    ]
    names = splits.train.name, splits.validation.name
    if len(seen[0]) < 2:
        raise DataError(
            f"{names[0]}: one class only: {_some(sorted(seen[0]))}; expected two or more classes.",
            hint="Each class is a folder of its own; see: edgevision data check --help",
        )
    for here, there in ((0, 1), (1, 0)):
        if missing := sorted(seen[here] - seen[there]):
            raise DataError(
                f"{names[there]}: no image of class {_some(missing)}, which {names[here]} has.",
                hint="Both splits need images of every class. Look at: edgevision data check",
            )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(f"'{name}'" for name in names[:10]) + more
