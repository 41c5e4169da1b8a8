"""Hugging Face data sets and parquet folders, on small data of the same form."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from edgevision.data import load_data
from edgevision.data.hub import Choice, arrays_from_hub, parse_reference
from edgevision.errors import DataError

COUNT = 6


def pixels(seed: int = 0, size: int = 8) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (COUNT, size, size, 3), np.uint8))


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(autouse=True)
def quiet() -> None:
    datasets.disable_progress_bars()


def write_typed(path: Path, seed: int, **columns: Any) -> None:
    """As the hub stores it: the features lie in the file's metadata."""
    features = {"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog", "ant"])}
    values: dict[str, Any] = {
        "img": [Image.fromarray(image) for image in pixels(seed)],
        "label": [0, 1, 2] * (COUNT // 3),
    }
    for name, (feature, value) in columns.items():
        features[name], values[name] = feature, value
    path.parent.mkdir(parents=True, exist_ok=True)
    table = datasets.Dataset.from_dict(values, features=datasets.Features(features))
    table.to_parquet(str(path))


def write_plain(path: Path, **columns: Any) -> None:
    """As other tools write it: no metadata of the hub."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def load(folder: Path, cache: Path, choice: str = "") -> Any:
    return load_data(f"{folder}{choice}", cache=cache)


@pytest.mark.parametrize("name", ["test", "validation"])
def test_parquet_as_the_hub_stores_it(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "set"
    write_typed(folder / "data" / "train-00000-of-00001.parquet", 0)
    write_typed(folder / "data" / f"{name}-00000-of-00001.parquet", 1)
    data = load(folder, tmp_path / "cache")
    assert data.labels == ("cat", "dog", "ant")  # the order of the head, not of the alphabet
    for split, seed in ((data.train, 0), (data.validation, 1)):
        assert [split.target(i) for i in range(len(split))] == [0, 1, 2, 0, 1, 2]
        for index, expected in enumerate(pixels(seed)):
            assert np.array_equal(split.image(index), expected)
    assert data.train.fingerprint() != data.validation.fingerprint()
    assert data.train.fingerprint() == load(folder, tmp_path / "cache").train.fingerprint()


@pytest.mark.parametrize("struct", [True, False])
def test_plain_parquet_with_names_for_labels(tmp_path: Path, struct: bool) -> None:
    content = [png(image) for image in pixels()]
    images = [{"bytes": one, "path": None} for one in content] if struct else content
    folder = tmp_path / "set"
    write_plain(folder / "all.parquet", photo=images, kind=["b", "a"] * 3)
    data = load(folder, tmp_path / "cache")
    assert data.labels == ("a", "b")
    assert (len(data.train), len(data.validation)) == (4, 2)
    seen = {
        (split.image_hash(i), split.target(i))
        for split in (data.train, data.validation)
        for i in range(len(split))
    }
    assert len(seen) == COUNT


def test_columns_are_named_where_they_are_ambiguous(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    coarse = datasets.ClassLabel(names=["pet", "insect"])
    extra = {"coarse": (coarse, [0, 0, 1] * 2), "mask": (datasets.Image(), None)}
    extra["mask"] = (datasets.Image(), [Image.fromarray(image) for image in pixels(9)])
    write_typed(folder / "train.parquet", 0, **extra)
    with pytest.raises(DataError, match=r"which column is the image\? 2 could be it.*mask") as e:
        load(folder, tmp_path / "cache")
    assert "?image=COLUMN" in str(e.value.hint)
    with pytest.raises(DataError, match=r"which column is the label\?.*coarse \(int64\)"):
        load(folder, tmp_path / "cache", "?image=img")
    data = load(folder, tmp_path / "cache", "?image=img&label=coarse")
    assert data.labels == ("pet", "insect")
    with pytest.raises(DataError, match=r"no column 'x'\. Columns: img"):
        load(folder, tmp_path / "cache", "?image=x")


def test_a_column_called_label_goes_before_others(tmp_path: Path) -> None:
    content = [png(image) for image in pixels()]
    folder = tmp_path / "set"
    write_plain(folder / "a.parquet", image=content, label=[7, 3] * 3, width=[8] * COUNT)
    data = load(folder, tmp_path / "cache")
    assert data.labels == ("3", "7")


def test_no_image_column(tmp_path: Path) -> None:
    write_plain(tmp_path / "set" / "a.parquet", text=["x"] * 4, label=[0, 1] * 2)
    with pytest.raises(DataError, match=r"which column is the image\? none could be it"):
        load(tmp_path / "set", tmp_path / "cache")


def test_rows_without_a_label_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    content = [png(image) for image in pixels()]
    write_plain(folder / "a.parquet", image=content, label=["a", "b", None, "a", "b", None])
    with pytest.raises(DataError, match=r"row 2 has the label None.*2 of 6 rows"):
        load(folder, tmp_path / "cache")


def test_a_label_that_training_does_not_know(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    content = [png(image) for image in pixels()]
    write_plain(folder / "train.parquet", image=content, label=["a", "b"] * 3)
    write_plain(folder / "test.parquet", image=content, label=["a", "z"] * 3)
    with pytest.raises(DataError, match=r"row 1 has the label 'z'.*expected one of a, b"):
        load(folder, tmp_path / "cache")


def test_damaged_images_and_files(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    content = [png(image) for image in pixels()]
    content[0] = content[0][:40]
    write_plain(folder / "train.parquet", image=[*content[:5], None], label=["a", "b"] * 3)
    write_plain(folder / "test.parquet", image=content, label=["a", "b"] * 3)
    data = load(folder, tmp_path / "cache")
    with pytest.raises(DataError, match=r"set/train\[0\]: the image is damaged"):
        data.train.image(0)
    with pytest.raises(DataError, match=r"set/train\[5\]: the row holds no image"):
        data.train.image(5)
    (folder / "train.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(DataError, match="cannot be read by Hugging Face datasets"):
        load(folder, tmp_path / "cache")


def test_arrays_for_the_cache(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    write_typed(folder / "train.parquet", 0)
    write_typed(folder / "test.parquet", 1)
    told: list[tuple[str, int, int]] = []
    arrays = arrays_from_hub(
        str(folder),
        {"train": "train", "validation": "test"},
        ("x", "y", "z"),
        lambda what, done, total: told.append((what, done, total)),
        tmp_path / "cache",
    )
    images, targets = arrays["validation"]
    assert np.array_equal(images, np.stack(pixels(1)))
    assert targets.tolist() == [0, 1, 2, 0, 1, 2]
    assert told[-1] == ("decoding validation", COUNT, COUNT)
    with pytest.raises(DataError, match="expected 2 classes, got 3"):
        arrays_from_hub(
            str(folder), {"train": "train"}, ("x", "y"), lambda *_: None, tmp_path / "cache"
        )
    with pytest.raises(DataError, match="expected a split 'dev', got train, test"):
        arrays_from_hub(
            str(folder), {"train": "dev"}, ("x",) * 3, lambda *_: None, tmp_path / "cache"
        )


def test_gray_pictures_become_one_channel(tmp_path: Path) -> None:
    gray = [image[..., 0] for image in pixels()]
    content = [png(image) for image in gray]
    write_plain(tmp_path / "set" / "train.parquet", image=content, label=[0, 1] * 3)
    arrays = arrays_from_hub(
        str(tmp_path / "set"), {"train": "train"}, ("0", "1"), lambda *_: None, tmp_path / "c"
    )
    assert np.array_equal(arrays["train"][0][..., 0], np.stack(gray))


def test_choices_of_a_reference() -> None:
    assert parse_reference("a/b") == ("a/b", Choice())
    assert parse_reference("a/b?label=x&config=y") == ("a/b", Choice(label="x", config="y"))
