"""BatchLoader: the same batches for the same seed, epoch and step, however it is run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from edgevision.data.arrays import ArrayDataset, as_array
from edgevision.data.augment import AugmentConfig
from edgevision.data.folders import open_folder
from edgevision.data.loader import BatchLoader, class_counts, class_weights, normalize_torch
from edgevision.data.subset import Subset
from edgevision.errors import DataError, UsageError
from edgevision.preprocessing import Preprocessing
from edgevision.tasks import get_task
from edgevision.tasks.base import LossOptions

TASK = get_task("classification")
PREPROCESSING = Preprocessing(height=8, width=8, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
LABELS = ("a", "b", "c")
EVERYTHING = AugmentConfig(
    flip="random", crop_padding=2, rotation=10, brightness=0.2, hue=0.1, erasing=0.5, mixup=0.5
)


def dataset(count: int = 53, size: int = 8) -> ArrayDataset:
    random = np.random.default_rng(1)
    images = random.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return ArrayDataset("made/train", images, np.arange(count) % 3, LABELS)


def uneven() -> ArrayDataset:
    images = np.zeros((100, 8, 8, 3), np.uint8)
    return ArrayDataset("made/uneven", images, np.array([0] * 80 + [1] * 15 + [2] * 5), LABELS)


def equal(first: list[tuple[torch.Tensor, ...]], second: list[tuple[torch.Tensor, ...]]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(x, y)
        for a, b in zip(first, second, strict=True)
        for x, y in zip(a, b, strict=True)
    )


@given(
    hnp.arrays(np.uint8, hnp.array_shapes(min_dims=4, max_dims=4, max_side=6).map(
        lambda shape: (*shape[:3], 3))),
    st.tuples(*[st.floats(-2, 2)] * 3),
    st.tuples(*[st.floats(1e-3, 4)] * 3),
    st.booleans(),
)  # fmt: skip
def test_normalization_is_bit_equal_to_the_runtime(
    batch: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...], channels_last: bool
) -> None:
    preprocessing = Preprocessing(height=4, width=4, mean=mean, std=std)
    tensor = torch.from_numpy(batch).permute(0, 3, 1, 2)
    found = normalize_torch(tensor if channels_last else tensor.contiguous(), preprocessing)
    assert found.dtype == torch.float32
    assert np.array_equal(found.numpy(), preprocessing.normalize(batch))


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 60), st.integers(1, 20))
def test_evaluation_sees_every_image_once_in_order(count: int, batch_size: int) -> None:
    data = dataset(count)
    loader = BatchLoader(data, PREPROCESSING, TASK, batch_size)
    batches = list(loader)
    assert len(batches) == len(loader)
    images = torch.cat([images for images, _ in batches])
    assert np.array_equal(images.numpy(), PREPROCESSING.normalize(data.images))
    assert torch.cat([targets for _, targets in batches]).tolist() == data.targets.tolist()


def test_training_shuffles_and_drops_the_last_part() -> None:
    loader = BatchLoader(dataset(), PREPROCESSING, TASK, 10, seed=4, train=True)
    assert len(loader) == 5
    orders = []
    for epoch in (0, 1):
        loader.set_epoch(epoch)
        orders.append(np.concatenate([loader.indices(step) for step in range(5)]))
        assert len(set(orders[-1])) == 50
        assert [len(images) for images, _ in loader] == [10] * 5
    assert not np.array_equal(*orders)


def test_fewer_images_than_a_batch_make_one_batch() -> None:
    loader = BatchLoader(dataset(7), PREPROCESSING, TASK, 10, train=True)
    assert [len(images) for images, _ in loader] == [7]


def test_an_epoch_can_be_carried_on_at_any_step() -> None:
    def make() -> BatchLoader:
        return BatchLoader(
            dataset(), PREPROCESSING, TASK, 10, seed=2, train=True, augment=EVERYTHING
        )

    whole = make()
    whole.set_epoch(3)
    batches = list(whole)
    for start in range(6):
        rest = make()
        rest.set_epoch(3, start)
        assert equal(list(rest), batches[start:])
    other = make()
    other.set_epoch(4)
    assert not equal(list(other), batches)


def test_processes_share_a_step_without_overlap() -> None:
    alone = BatchLoader(dataset(), PREPROCESSING, TASK, 12, seed=5, train=True)
    parts = [
        BatchLoader(dataset(), PREPROCESSING, TASK, 4, seed=5, train=True, rank=r, world_size=3)
        for r in range(3)
    ]
    assert {len(part) for part in parts} == {len(alone)}
    for step in range(len(alone)):
        together = np.concatenate([part.indices(step) for part in parts])
        assert sorted(together) == sorted(alone.indices(step))


def test_processes_evaluate_every_image_once() -> None:
    parts = [
        BatchLoader(dataset(10), PREPROCESSING, TASK, 2, rank=r, world_size=3) for r in range(3)
    ]
    seen = [i for part in parts for step in range(len(part)) for i in part.indices(step)]
    assert sorted(seen) == list(range(10))


def test_balanced_drawing_evens_the_classes() -> None:
    loader = BatchLoader(uneven(), PREPROCESSING, TASK, 100, train=True, balanced=True)
    counts: Counter[int] = Counter()
    for epoch in range(30):
        loader.set_epoch(epoch)
        for _, targets in loader:
            counts.update(targets.tolist())
    assert sum(counts.values()) == 3000
    # Binomial(3000, 1/3) has a standard deviation of 26: five of them.
    assert all(870 < count < 1130 for count in counts.values())


def test_class_weights_are_inverse_to_the_counts() -> None:
    assert class_counts(uneven(), TASK).tolist() == [80, 15, 5]
    weights = class_weights(uneven(), TASK)
    assert np.isclose(np.mean(weights), 1)
    assert np.allclose(np.array(weights) * [80, 15, 5], weights[0] * 80)


def test_class_weights_want_every_class() -> None:
    with pytest.raises(DataError, match="no image of class b, c"):
        class_weights(Subset(uneven(), range(10), "few"), TASK)


def test_decoding_on_the_way_gives_the_same_as_memory(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for index in range(23):
        folder = tmp_path / LABELS[index % 3]
        folder.mkdir(exist_ok=True)
        size = (*random.integers(5, 20, 2), 3)
        Image.fromarray(random.integers(0, 256, size, dtype=np.uint8)).save(folder / f"{index}.png")
    data, _ = open_folder(tmp_path)

    def run(memory_limit_mb: int, workers: int) -> list[tuple[torch.Tensor, ...]]:
        loader = BatchLoader(
            data, PREPROCESSING, TASK, 5, train=True, augment=EVERYTHING, workers=workers,
            memory_limit_mb=memory_limit_mb,
        )  # fmt: skip
        assert (loader._array is None) == (memory_limit_mb == 0)
        return list(loader)

    assert equal(run(1024, 1), run(0, 1))
    assert equal(run(0, 1), run(0, 4))


def test_a_damaged_file_on_the_way_is_named(tmp_path: Path) -> None:
    for label in LABELS:
        (tmp_path / label).mkdir()
        (tmp_path / label / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    data, _ = open_folder(tmp_path)
    with pytest.raises(DataError, match=r"a/x\.png"):
        list(BatchLoader(data, PREPROCESSING, TASK, 2, memory_limit_mb=0))


def test_mixed_batches_have_soft_targets() -> None:
    loader = BatchLoader(
        dataset(), PREPROCESSING, TASK, 10, train=True, augment=AugmentConfig(cutmix=1.0)
    )
    for _, targets in loader:
        assert targets.shape == (10, 3)
        loss = TASK.loss(torch.zeros(10, 3), targets, LossOptions())
        assert torch.isclose(loss, torch.tensor(3.0).log())


def test_arrays_are_made_once_and_not_copied_in_vain() -> None:
    data = dataset()
    assert as_array(data, PREPROCESSING) is data.images
    small = Preprocessing(height=4, width=4)
    made = as_array(data, small)
    assert made.shape == (53, 4, 4, 3)
    assert as_array(data, Preprocessing(height=4, width=4, mean=(0.5,) * 3)) is made
    assert np.array_equal(made[7], small.geometry(data.image(7)))


def test_gray_arrays_are_what_geometry_makes_of_them() -> None:
    gray = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), dtype=np.uint8)
    data = ArrayDataset("gray", gray, np.zeros(5, np.int64), LABELS)
    preprocessing = Preprocessing(height=8, width=8, color="gray", mean=(0.5,), std=(0.5,))
    assert as_array(data, preprocessing) is gray
    for index in range(5):
        assert np.array_equal(preprocessing.geometry(data.image(index)), gray[index])


@pytest.mark.parametrize(
    "arguments",
    [
        {"batch_size": 0},
        {"rank": 2, "world_size": 2},
        {"seed": -1},
        {"augment": AugmentConfig()},
        {"balanced": True},
    ],
)
def test_refuses_arguments_that_do_not_fit(arguments: dict[str, object]) -> None:
    values = {"batch_size": 4, **arguments}
    with pytest.raises(UsageError, match="BatchLoader"):
        BatchLoader(dataset(), PREPROCESSING, TASK, **values)  # type: ignore[arg-type]


def test_refuses_a_step_beyond_the_epoch() -> None:
    loader = BatchLoader(dataset(), PREPROCESSING, TASK, 10)
    with pytest.raises(UsageError, match="step 7"):
        loader.set_epoch(0, 7)
