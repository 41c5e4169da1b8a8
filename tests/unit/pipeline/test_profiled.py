"""The network that ``profile`` looks at: a checkpoint is fed as its card says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgevision.data import load_data
from edgevision.data.base import some_images
from edgevision.errors import ModelError, UsageError
from edgevision.models import create
from edgevision.models.checkpoint import ModelCard, save_checkpoint
from edgevision.pipeline.profiled import network_of
from edgevision.preprocessing import Preprocessing

OWN = Preprocessing(height=20, width=24, resize="stretch", mean=(0.1,) * 3, std=(0.2,) * 3)


def checkpoint(folder: Path, labels: tuple[str, ...]) -> str:
    module = create("fastnet", num_classes=len(labels), in_channels=3, image_size=(20, 24))
    card = ModelCard(
        reference="fastnet",
        task="classification",
        labels=labels,
        in_channels=3,
        preprocessing=OWN.to_dict(),
    )
    save_checkpoint(folder, module, card)
    return str(folder)


def test_data_are_prepared_as_the_checkpoint_says(image_folder: Path, tmp_path: Path) -> None:
    splits = load_data(str(image_folder))
    assert splits.preprocessing.input_shape != OWN.input_shape
    model = checkpoint(tmp_path / "own", splits.labels)
    _, shape, classes, images = network_of(model, str(image_folder), None)
    assert (shape, classes) == ((3, 20, 24), 3)
    assert np.array_equal(images, some_images(splits.train, OWN, len(images)))
    assert network_of(model, None, None)[1] == (3, 20, 24)
    with pytest.raises(UsageError, match="takes 20x24 pixels, got size 20"):
        network_of(model, str(image_folder), 20)


def test_other_classes_than_the_checkpoints_are_refused(image_folder: Path, tmp_path: Path) -> None:
    labels = load_data(str(image_folder)).labels
    model = checkpoint(tmp_path / "turned", labels[::-1])
    with pytest.raises(ModelError, match="knows 3 classes"):
        network_of(model, str(image_folder), None)
