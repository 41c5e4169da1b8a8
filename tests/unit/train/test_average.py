from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgevision.data import load_data
from edgevision.data.loader import BatchLoader
from edgevision.errors import ModelError, UsageError
from edgevision.models.checkpoint import load_checkpoint
from edgevision.tasks import get_task
from edgevision.train import default_config, evaluate, override
from edgevision.train.average import average_checkpoints
from edgevision.train.job import train


def test_the_mean_of_two_cycles_is_a_network_with_statistics_of_its_own(
    tmp_path: Path, image_folder: Path
) -> None:
    data = load_data(str(image_folder), image_size=(32, 32))
    config = override(default_config("cifar-resnet8"), epochs=2, batch_size=20, precision="fp32")
    first, second, out = tmp_path / "first", tmp_path / "second", tmp_path / "mean"
    train("cifar-resnet8", data, out=first, config=config)
    train(str(first), data, out=second, config=config)
    metrics = average_checkpoints([first, second], data, out)
    a, b, mean = (load_checkpoint(folder)[0] for folder in (first, second, out))
    for one, two, both in zip(a.parameters(), b.parameters(), mean.parameters(), strict=True):
        torch.testing.assert_close(both, (one + two) / 2)
    # The statistics are those that the mean network has on the training images.
    name, norm = next(
        (n, m) for n, m in mean.named_modules() if isinstance(m, torch.nn.BatchNorm2d)
    )
    seen: list[torch.Tensor] = []
    norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    card = load_checkpoint(out)[1]
    preprocessing = card.as_preprocessing()
    loader = BatchLoader(data.train, preprocessing, get_task("classification"), 100, train=True)
    images = [
        torch.from_numpy(
            preprocessing.normalize(preprocessing.geometry(data.train.image(int(i)))[None])
        )
        for i in loader.indices(0)
    ]
    with torch.no_grad():
        mean(torch.cat(images))
    torch.testing.assert_close(norm.running_mean, seen[0].mean((0, 2, 3)), atol=1e-4, rtol=1e-3)
    assert not torch.allclose(norm.running_mean, a.get_submodule(name).running_mean, atol=1e-3)
    assert metrics == evaluate(mean, data.validation, preprocessing, get_task("classification"))
    assert card.metrics == metrics
    assert card.lineage["average_of"] == [str(first), str(second)]


def test_what_cannot_be_averaged_is_told(tmp_path: Path, image_folder: Path) -> None:
    data = load_data(str(image_folder), image_size=(32, 32))
    for name in ("plain-cnn", "cifar-resnet8"):
        config = override(default_config(name), epochs=1, batch_size=40, precision="fp32")
        train(name, data, out=tmp_path / name, config=config)
    with pytest.raises(UsageError, match="two checkpoints or more, got 1"):
        average_checkpoints([tmp_path / "plain-cnn"], data, tmp_path / "out")
    both = [tmp_path / "plain-cnn", tmp_path / "cifar-resnet8"]
    with pytest.raises(ModelError, match="another network"):
        average_checkpoints(both, data, tmp_path / "out")
    assert not (tmp_path / "out").exists()
