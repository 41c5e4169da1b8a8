"""Calibration sets: even, reproducible, apart from validation, and written down."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgevision.data import load_data
from edgevision.data.arrays import ArrayDataset
from edgevision.data.calibration import load_calibration, sample_calibration
from edgevision.errors import DataError, UsageError
from edgevision.preprocessing import Preprocessing
from edgevision.tasks import get_task

TASK = get_task("classification")
LABELS = ("a", "b", "c")
RANDOM = np.random.default_rng(0)


def dataset(counts: tuple[int, int, int], seed: int = 0) -> ArrayDataset:
    targets = np.repeat(np.arange(3), counts)
    images = np.random.default_rng(seed).integers(0, 256, (len(targets), 4, 4, 3), dtype=np.uint8)
    return ArrayDataset("made/train", images, targets, LABELS)


def drawn(data: ArrayDataset, count: int, seed: int = 0) -> Counter[int]:
    chosen = sample_calibration(data, TASK, count, seed)
    assert len(set(chosen.indices)) == count
    return Counter(data.target(index) for index in chosen.indices)


def test_classes_are_even_in_every_first_part() -> None:
    data = dataset((50, 60, 70))
    chosen = sample_calibration(data, TASK, 40, 0)
    for end in range(1, 41):
        counts = Counter(data.target(index) for index in chosen.indices[:end])
        assert max(counts.values()) - min(counts.get(n, 0) for n in range(3)) <= 1


def test_rare_classes_give_all_they_have() -> None:
    assert drawn(dataset((50, 2, 70)), 20) == {0: 9, 1: 2, 2: 9}
    assert drawn(dataset((3, 2, 4)), 9) == {0: 3, 1: 2, 2: 4}


def test_the_seed_decides() -> None:
    data = dataset((50, 60, 70))
    first = sample_calibration(data, TASK, 30, 0)
    assert sample_calibration(data, TASK, 30, 0).indices == first.indices
    assert sample_calibration(data, TASK, 30, 0).digest == first.digest
    assert sample_calibration(data, TASK, 30, 1).digest != first.digest
    # A larger set of the same seed begins with the smaller one.
    assert sample_calibration(data, TASK, 60, 0).indices[:30] == first.indices


def test_the_digest_tells_the_pixels() -> None:
    first, second = dataset((5, 5, 5)), dataset((5, 5, 5))
    second.images[:, 0, 0, 0] ^= 1
    digests = [sample_calibration(data, TASK, 9, 0).digest for data in (first, second)]
    assert digests[0] != digests[1]


def test_images_of_the_validation_split_are_not_drawn() -> None:
    train = dataset((20, 20, 20))
    held = ArrayDataset("made/validation", train.images[::2], train.targets[::2], LABELS)
    chosen = sample_calibration(train, TASK, 30, 0, validation=held)
    assert all(index % 2 for index in chosen.indices)
    with pytest.raises(DataError, match=r"expected 31 images .*, got 30, 30 more are in the valid"):
        sample_calibration(train, TASK, 31, 0, validation=held)
    with pytest.raises(DataError, match="got 0, 60 more are in the validation split"):
        sample_calibration(train, TASK, 1, 0, validation=train)


def test_missing_classes_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "edgevision"):
        chosen = sample_calibration(dataset((50, 60, 0)), TASK, 10, 0)
    assert chosen.missing == ("c",)
    assert "none of class c" in caplog.text
    caplog.clear()
    assert sample_calibration(dataset((50, 60, 1)), TASK, 10, 0).missing == ()
    assert not caplog.text


@pytest.mark.parametrize(("count", "seed"), [(0, 0), (-1, 0), (5, -1)])
def test_refuses_numbers_out_of_range(count: int, seed: int) -> None:
    with pytest.raises(UsageError, match="count must be 1 or more and seed 0 or more"):
        sample_calibration(dataset((5, 5, 5)), TASK, count, seed)


def test_refuses_more_than_there_are() -> None:
    with pytest.raises(DataError, match="expected 16 images for calibration, got 15"):
        sample_calibration(dataset((5, 5, 5)), TASK, 16, 0)


@pytest.mark.parametrize("batch_size", [1, 4, 7, 100])
def test_batches_are_the_normalized_images_in_order(batch_size: int) -> None:
    data = dataset((10, 10, 10))
    preprocessing = Preprocessing(height=3, width=5, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    chosen = sample_calibration(data, TASK, 14, 0)
    batches = list(chosen.batches(preprocessing, batch_size))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    expected = np.concatenate([preprocessing(data.image(index)) for index in chosen.indices])
    assert np.array_equal(np.concatenate(batches), expected)


def test_the_manifest_brings_the_set_back(tmp_path: Path) -> None:
    data = dataset((10, 10, 10))
    chosen = sample_calibration(data, TASK, 14, 3)
    path = tmp_path / "deep" / "set.json"
    chosen.save(path)
    assert json.loads(path.read_text("utf-8")) == chosen.manifest()
    again = load_calibration(path, data, TASK)
    assert again == chosen
    assert again.digest == chosen.digest
    row = chosen.manifest()["images"][0]
    assert row["sha256"] == data.image_hash(row["index"])


def test_a_manifest_of_other_images_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    sample_calibration(dataset((10, 10, 10)), TASK, 14, 3).save(path)
    with pytest.raises(DataError, match=r"image \d+ of made/train is another one"):
        load_calibration(path, dataset((10, 10, 10), seed=1), TASK)
    with pytest.raises(DataError, match="no such image"):
        load_calibration(path, dataset((1, 0, 0)), TASK)
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(DataError, match="expected version 1, got 2"):
        load_calibration(path, dataset((10, 10, 10)), TASK)
    for text in ("", "[]", "{}", '{"version": 1, "seed": 0, "images": [{}]}'):
        path.write_text(text)
        with pytest.raises(DataError, match="no calibration manifest"):
            load_calibration(path, dataset((10, 10, 10)), TASK)


def test_a_manifest_with_images_of_the_validation_split_is_refused(tmp_path: Path) -> None:
    data = dataset((10, 10, 10))
    path = tmp_path / "set.json"
    chosen = sample_calibration(data, TASK, 14, 3)
    chosen.save(path)
    held = ArrayDataset("made/validation", data.images[:8], data.targets[:8], LABELS)
    shared = [index for index in chosen.indices if index < 8]
    assert shared
    with pytest.raises(
        DataError, match=rf"{len(shared)} of its 14 images are in the valid"
    ) as told:
        load_calibration(path, data, TASK, validation=held)
    assert all(f"made/train[{index}]" in told.value.message for index in shared[:5])
    apart = ArrayDataset("made/validation", data.images[:8] ^ 1, data.targets[:8], LABELS)
    assert load_calibration(path, data, TASK, validation=apart) == chosen


def test_the_shipped_data_can_be_calibrated_on(caplog: pytest.LogCaptureFixture) -> None:
    data = load_data("fashion-mnist-mini")
    chosen = sample_calibration(data.train, TASK, 100, 0, validation=data.validation)
    counts = Counter(data.train.target(index) for index in chosen.indices)
    assert set(counts.values()) == {10}
    assert chosen.missing == ()
    assert not caplog.text


def test_a_set_unlike_the_training_images_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train = load_data("fashion-mnist-mini").train
    chosen = sample_calibration(train, TASK, 64, 0)
    brightness = [train.image(index).mean() for index in range(1000)]
    classes = {index: TASK.classes_of(train.target(index)) for index in range(len(train))}
    bags = [index for index, shown in classes.items() if shown == (8,)]
    path = tmp_path / "set.json"
    for indices, message in (
        (np.argsort(brightness)[:64], "mean of R .* where training images have .*limit 5"),
        (bags[:64], "90 % of its images are of other classes .*'bag' has 100 %"),
    ):
        shown = tuple(classes[int(index)] for index in indices)
        replace(chosen, indices=tuple(map(int, indices)), classes=shown).save(path)
        caplog.clear()
        load_calibration(path, train, TASK)
        assert re.search(f"looks unlike .*{message}", caplog.text)
