from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

# Tests run offline: a hub is never asked, whatever the machine allows.
os.environ["HF_HUB_OFFLINE"] = "1"

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session", autouse=True)
def times_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither use nor fill the user's table of times; fetched data sets stay reachable."""
    from edgevision.data.cache import cache_folder

    users, own = cache_folder(), tmp_path_factory.mktemp("cache")
    for entry in users.iterdir() if users.is_dir() else ():
        if entry.name != "latency":
            (own / entry.name).symlink_to(entry.resolve())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEVISION_CACHE", str(own))
        yield


@pytest.fixture(scope="session")
def cli() -> Cli:
    """Run ``edgevision ARGUMENTS`` as a user would, in a process of its own."""

    def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "edgevision", *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=cwd,
            timeout=500,
            env={**os.environ, "COLUMNS": "200"},
        )

    return run


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real photographs of clothes: 3 classes, 40 training and 20 validation PNG files each."""
    from edgevision.data import load_data

    folder = tmp_path_factory.mktemp("clothes")
    splits = load_data("fashion-mnist-mini")
    for name, split, count in (
        ("train", splits.train, 40),
        ("validation", splits.validation, 20),
    ):
        left = dict.fromkeys(range(3), count)
        for index in range(len(split)):
            label = split.target(index)
            if left.get(label, 0):
                left[label] -= 1
                place = folder / name / split.labels[label].replace("/", "-")
                place.mkdir(parents=True, exist_ok=True)
                Image.fromarray(split.image(index)).save(place / f"{index:05d}.png")
    return folder
