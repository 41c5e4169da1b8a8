from __future__ import annotations

import pytest

from edgevision.data import DataSplits, load_data
from edgevision.data.arrays import ArrayDataset


def part(dataset: ArrayDataset, count: int) -> ArrayDataset:
    """The first images of each of three classes, evenly."""
    chosen = [
        index
        for label in range(3)
        for index in (dataset.targets == label).nonzero()[0][: count // 3].tolist()
    ]
    return ArrayDataset(
        dataset.name, dataset.images[chosen], dataset.targets[chosen], dataset.labels[:3]
    )


@pytest.fixture(scope="session")
def clothes() -> DataSplits:
    """Real images of three classes: 240 to train on, 90 to validate."""
    splits = load_data("fashion-mnist-mini")
    assert isinstance(splits.train, ArrayDataset)
    assert isinstance(splits.validation, ArrayDataset)
    return DataSplits(
        "clothes", part(splits.train, 240), part(splits.validation, 90), splits.preprocessing
    )
