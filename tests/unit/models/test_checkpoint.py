from __future__ import annotations

import errno
import json
import pickle
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from edgevision.errors import ModelError
from edgevision.models import create
from edgevision.models.checkpoint import ModelCard, load_checkpoint, save_checkpoint
from edgevision.preprocessing import Preprocessing

PREPROCESSING = Preprocessing(height=28, width=28, color="gray", mean=(0.3,), std=(0.4,))
CARD = ModelCard(
    reference="cifar-resnet8",
    task="classification",
    labels=("a", "b", "c"),
    in_channels=1,
    preprocessing=PREPROCESSING.to_dict(),
    metrics={"top1": 50.0},
    lineage={"data": "toy"},
)


def network() -> nn.Module:
    return create("cifar-resnet8", num_classes=3, in_channels=1, image_size=(28, 28))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    module = network()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.01)
    save_checkpoint(tmp_path / "net", module, CARD)
    return tmp_path / "net"


def test_comes_back_bit_equal_with_its_card(tmp_path: Path) -> None:
    module = network().train()
    module(torch.rand(4, 1, 28, 28))  # moves the batch statistics
    save_checkpoint(tmp_path, module, CARD)
    loaded, card = load_checkpoint(tmp_path)
    assert card == CARD
    assert card.as_preprocessing() == PREPROCESSING
    images = torch.rand(4, 1, 28, 28)
    assert not loaded.training
    assert torch.equal(loaded(images), module.eval()(images))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.json", "model.safetensors"]


@pytest.mark.parametrize("reference", ["cifar-resnet8", "resnet18"])
def test_a_folder_that_is_called_like_its_network_is_not_mistaken_for_it(
    reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    module = create(reference, num_classes=3, in_channels=1, image_size=(28, 28))
    save_checkpoint(Path(reference), module, CARD.model_copy(update={"reference": reference}))
    loaded, _ = load_checkpoint(Path(reference))
    assert type(loaded) is type(module)


def test_a_checkpoint_is_a_model_reference(folder: Path) -> None:
    module = create(str(folder), num_classes=3, in_channels=1, image_size=(28, 28))
    assert torch.equal(module.state_dict()["conv.weight"], load_weights(folder)["conv.weight"])
    with pytest.raises(ModelError, match="has 3 classes, 4 are asked for"):
        create(str(folder), num_classes=4, in_channels=1, image_size=(28, 28))
    with pytest.raises(ModelError, match=r"takes 1 input channel\(s\), the data has 3"):
        create(str(folder), num_classes=3, in_channels=3, image_size=(28, 28))


def load_weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def change_weights(folder: Path, **changes: torch.Tensor | None) -> None:
    state = load_weights(folder)
    for name, value in changes.items():
        if value is None:
            del state[name.replace("__", ".")]
        else:
            state[name.replace("__", ".")] = value
    save_file(state, folder / "model.safetensors")


def change_card(folder: Path, **changes: object) -> None:
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**card, **changes}))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_both_ways(folder: Path, value: float) -> None:
    module, card = load_checkpoint(folder)
    bad = load_weights(folder)["head.bias"].clone()
    bad[1] = value
    change_weights(folder, head__bias=bad)
    with pytest.raises(ModelError, match=r"head.bias holds 1 value\(s\) that are NaN or infinite"):
        load_checkpoint(folder)
    before = (folder / "model.safetensors").read_bytes()
    with torch.no_grad():
        module.head.bias[0] = value
    with pytest.raises(ModelError, match="NaN or infinite"):
        save_checkpoint(folder, module, card)
    assert (folder / "model.safetensors").read_bytes() == before


def test_truncated_and_foreign_files_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:4], b"", b"not weights at all" * 10):
        path.write_bytes(content)
        with pytest.raises(ModelError, match="damaged or no safetensors file"):
            load_checkpoint(folder)
    path.unlink()
    with pytest.raises(ModelError, match="There is no file"):
        load_checkpoint(folder)


def test_weights_of_another_network_are_refused(folder: Path) -> None:
    change_weights(folder, head__bias=None, extra=torch.zeros(1))
    with pytest.raises(ModelError, match=r"missing: head.bias, unknown: extra"):
        load_checkpoint(folder)


def test_labels_that_do_not_fit_the_head_are_refused(folder: Path) -> None:
    change_card(folder, labels=["a", "b"])
    with pytest.raises(ModelError, match=r"head.weight is \(3, 64\), expected \(2, 64\)"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": []}, "model.json is damaged: labels"),
        ({"colour": "red"}, "model.json is damaged: colour: Extra inputs"),
        ({"in_channels": 3}, r"in_channels is 3, but preprocessing gives 1 channel"),
        ({"preprocessing": {"height": 28}}, "preprocessing is not usable"),
        ({"reference": "cifar-resnet21"}, "Unknown model 'cifar-resnet21'"),
    ],
)
def test_cards_that_do_not_fit_are_refused(
    folder: Path, changes: dict[str, object], message: str
) -> None:
    change_card(folder, **changes)
    with pytest.raises(ModelError, match=message):
        load_checkpoint(folder)


def test_a_card_cut_short_or_leading_in_a_circle_is_refused(folder: Path) -> None:
    change_card(folder, reference=str(folder))
    with pytest.raises(ModelError, match="Unknown model"):
        load_checkpoint(folder)
    text = (folder / "model.json").read_text()
    (folder / "model.json").write_text(text[:40])
    with pytest.raises(ModelError, match=r"model.json is damaged"):
        load_checkpoint(folder)


class Bomb:
    """A pickle of this writes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.write_text, (self.path, "ran")


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "pytorch_model.bin", "model.ckpt"])
def test_pickles_are_refused_unread_with_the_way_to_convert(tmp_path: Path, name: str) -> None:
    trace = tmp_path / "trace"
    (tmp_path / name).write_bytes(pickle.dumps(Bomb(trace)))
    for reference in (tmp_path, tmp_path / name):
        with pytest.raises(ModelError, match="pickle") as caught:
            create(str(reference), num_classes=3, in_channels=1, image_size=(28, 28))
        assert "weights_only=True" in str(caught.value)
    assert not trace.exists()


def test_a_pickle_under_the_right_name_does_not_run(folder: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    (folder / "model.safetensors").write_bytes(pickle.dumps(Bomb(trace)))
    with pytest.raises(ModelError, match="no safetensors file"):
        load_checkpoint(folder)
    assert not trace.exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user cannot mount a tmpfs")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_told_as_one_and_leaves_nothing(small_disk: Path) -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        save_checkpoint(small_disk, network(), CARD)
    assert caught.value.errno == errno.ENOSPC
    assert list(small_disk.iterdir()) == []
