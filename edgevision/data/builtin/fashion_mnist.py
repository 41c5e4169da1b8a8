"""Fashion-MNIST: 60 000 training and 10 000 test pictures of clothes, 28x28 gray, ten classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgevision.data.builtin.base import Progress
from edgevision.data.builtin.fetched import Arrays, FetchedData
from edgevision.data.idx import read_idx
from edgevision.preprocessing import Preprocessing

LABELS = (
    "t-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
PREPROCESSING = Preprocessing(height=28, width=28, color="gray", mean=(0.2860,), std=(0.3530,))

_PACKAGE = "dataset-fashion-mnist"
_FOLDER = "usr/share/datasets/fashion-mnist"
_PARTS = {"train": "train", "validation": "t10k"}


class FashionMnist(FetchedData):
    """The whole set; the test part is the validation split."""

    name = "fashion-mnist"
    summary = "60 000 + 10 000 pictures, 28x28 gray, ten classes; fetched, 31 MB"
    labels = LABELS
    preprocessing = PREPROCESSING
    hub_name = "zalando-datasets/fashion_mnist"
    hub_splits = ("train", "test")
    content = (
        "eb06c410388fc9dce9bb12c316b14b906ce85fb078112b94800278022193b76f",
        "ad61b93e714c9d070cc0e75985a30f614d8234c1f412b6956582b581405dd04c",
    )

    def from_package(self, downloads: Path, progress: Progress) -> dict[str, Arrays]:
        from edgevision.data.packages import deb_members, debian_package

        archive = debian_package(_PACKAGE, downloads, progress)
        names = {
            (split, kind): f"{_FOLDER}/{part}-{kind}-ubyte.gz"
            for split, part in _PARTS.items()
            for kind in ("images-idx3", "labels-idx1")
        }
        members = deb_members(archive, list(names.values()), progress)
        arrays = {}
        for split in _PARTS:
            images, targets = (
                read_idx(members[names[split, kind]], names[split, kind])
                for kind in ("images-idx3", "labels-idx1")
            )
            arrays[split] = (images[..., None], targets.astype(np.int64))
        return arrays
