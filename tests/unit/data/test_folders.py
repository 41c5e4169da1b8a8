"""Image folders in all their layouts, and folders that cannot be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgevision.data import load_data
from edgevision.data.loading import open_data
from edgevision.data.subset import Subset, split_in_two
from edgevision.errors import DataError


def fill(folder: Path, count: int = 3, *, seed: int = 0, suffix: str = "png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng([seed, *folder.name.encode()])
    for index in range(count):
        pixels = random.integers(0, 256, (10, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.{suffix}")


@pytest.mark.parametrize("name", ["validation", "valid", "val", "test", "Val"])
def test_two_splits(tmp_path: Path, name: str) -> None:
    for label in ("cat", "dog"):
        fill(tmp_path / "train" / label, 4)
        fill(tmp_path / name / label, 2, seed=1)
    data = load_data(str(tmp_path))
    assert data.labels == ("cat", "dog")
    assert (len(data.train), len(data.validation)) == (8, 4)
    assert [data.validation.target(i) for i in range(4)] == [0, 0, 1, 1]
    assert data.train.describe(0) == "train/cat/0.png"
    assert data.train.image(0).shape == (10, 12, 3)
    assert data.preprocessing.input_shape == (3, 224, 224)
    assert data.preprocessing.resize == "crop"


def test_validation_comes_before_test(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("test", 1), ("val", 2)):
        for label in "ab":
            fill(tmp_path / split / label, count)
    assert len(load_data(str(tmp_path)).validation) == 4


@pytest.mark.parametrize("inner", ["", "train"])
def test_one_folder_is_split_by_the_seed(tmp_path: Path, inner: str) -> None:
    fill(tmp_path / inner / "a", 20)
    fill(tmp_path / inner / "b", 5)
    data = load_data(str(tmp_path), image_size=(32, 48))
    assert data.preprocessing.input_shape == (3, 32, 48)
    held = [data.validation.target(i) for i in range(len(data.validation))]
    assert held == [0] * 4 + [1]
    names = [
        {split.describe(i) for i in range(len(split))} for split in (data.train, data.validation)
    ]
    assert not names[0] & names[1]
    assert len(names[0] | names[1]) == 25
    again, other = load_data(str(tmp_path)), load_data(str(tmp_path), seed=1)
    assert again.validation.fingerprint() == data.validation.fingerprint()
    assert other.validation.fingerprint() != data.validation.fingerprint()


def test_images_lie_at_any_depth_and_under_any_suffix(tmp_path: Path) -> None:
    fill(tmp_path / "a" / "2021" / "may", 1)
    fill(tmp_path / "a" / "2022", 1, suffix="JPG")
    fill(tmp_path / "b", 2, suffix="webp")
    fill(tmp_path / "b" / ".hidden", 1)
    fill(tmp_path / ".cache", 1)
    (tmp_path / "b" / "notes.txt").write_text("no image")
    (tmp_path / "b" / ".DS_Store.png").write_bytes(b"x")
    data = open_data(str(tmp_path))
    assert data.labels == ("a", "b")
    assert len(data.train) + len(data.validation) == 4


def test_the_fingerprint_tells_pixels_names_and_labels(tmp_path: Path) -> None:
    for label in "ab":
        fill(tmp_path / "train" / label)
        fill(tmp_path / "val" / label, seed=1)

    def fingerprint() -> str:
        return load_data(str(tmp_path)).train.fingerprint()

    first = fingerprint()
    assert fingerprint() == first
    path = tmp_path / "train" / "a" / "0.png"
    content = path.read_bytes()
    path.write_bytes(content + b"\0")
    changed = fingerprint()
    path.write_bytes(content)
    assert fingerprint() == first
    path.rename(path.with_name("other.png"))
    assert len({first, changed, fingerprint()}) == 3


def layout(root: Path, *paths: str) -> None:
    for path in paths:
        if path.endswith("/"):
            (root / path).mkdir(parents=True)
        else:
            fill((root / path).parent, 1)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "no image is there"),
        (["a/"], "no image is there"),
        (["x.png"], r"0\.png lies there without a class folder"),
        (["a/x.png"], "one class only: 'a'; expected two or more"),
        (["a/x.png", "b/"], "no image in the class folder b"),
        (["train/a/x.png", "train/b/x.png", "val/"], "no image is there"),
        (["train/a/x.png", "val/a/x.png"], "one class only: 'a'"),
        (
            ["train/a/x.png", "train/b/x.png", "val/a/x.png"],
            "validation: no image of class 'b', which .*train has",
        ),
        (
            ["train/a/x.png", "train/b/x.png", "val/a/x.png", "val/b/x.png", "val/c/x.png"],
            "train: no image of class 'c', which .*validation has",
        ),
        (["a/x.png", "b/x.png"], "validation: no image of class 'a', 'b'"),
    ],
)
def test_refuses_layouts_that_cannot_be_trained_on(
    tmp_path: Path, paths: list[str], message: str
) -> None:
    layout(tmp_path, *paths)
    with pytest.raises(DataError, match=message) as caught:
        load_data(str(tmp_path))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("/no/such/folder", "There is no folder '/no/such/folder'"),
        ("./none", "There is no folder 'none'"),
        ("cifar-10", "Did you mean 'cifar10'"),
        ("", "Unknown data set ''"),
        ("cifar10?colour=red", "unknown choice colour"),
    ],
)
def test_refuses_what_is_not_there(reference: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(reference)


def test_refuses_a_file(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match="is a file; expected a folder"):
        load_data(str(tmp_path / "x.zip"))


def test_a_file_that_vanishes_is_named(tmp_path: Path) -> None:
    fill(tmp_path / "a")
    fill(tmp_path / "b")
    data = load_data(str(tmp_path))
    for path in tmp_path.rglob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match=r"a/\d\.png: there is no such file"):
        data.train.image(0)
    with pytest.raises(DataError, match=r"a/\d\.png: the file cannot be read"):
        data.train.fingerprint()


def test_a_class_of_one_image_stays_in_training(tmp_path: Path) -> None:
    fill(tmp_path / "a", 5)
    fill(tmp_path / "b", 1)
    train, held = split_in_two(open_data(str(tmp_path)).train, 0.2, 0)
    assert {held.target(i) for i in range(len(held))} == {0}
    assert 1 in {train.target(i) for i in range(len(train))}


def test_a_subset_checks_its_indices(tmp_path: Path) -> None:
    fill(tmp_path / "a", 3)
    fill(tmp_path / "b", 3)
    data = open_data(str(tmp_path)).train
    with pytest.raises(DataError, match="indices must lie in 0"):
        Subset(data, [len(data)], "part")
