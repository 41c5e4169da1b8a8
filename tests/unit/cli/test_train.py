from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgevision.cli._errors import run_guarded
from edgevision.cli.app import run_command
from edgevision.models import create
from edgevision.models.checkpoint import ModelCard, load_checkpoint, save_checkpoint
from edgevision.preprocessing import Preprocessing


def train(*arguments: object) -> int:
    return run_command(["train", *map(str, arguments)])


def options_for(data: Path) -> tuple[object, ...]:
    return ("--data", data, "--epochs", 1, "--batch-size", 40, "--precision", "fp32")


def test_writes_a_checkpoint_that_can_be_trained_on(
    tmp_path: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = (*options_for(image_folder), "--image-size", 28)
    assert train("plain-cnn", "--out", tmp_path / "net", *options) == 0
    told = capsys.readouterr().out
    assert "epoch 1/1, loss" in told
    assert "top1" in told
    assert f"Checkpoint: {tmp_path / 'net'}" in told
    module, card = load_checkpoint(tmp_path / "net")
    assert card.reference == "plain-cnn"
    assert len(card.labels) == 3
    assert module.training is False
    assert train(tmp_path / "net", "--out", tmp_path / "more", *options) == 0
    assert load_checkpoint(tmp_path / "more")[1].reference == "plain-cnn"


def test_a_checkpoint_is_trained_on_with_its_own_input(tmp_path: Path, image_folder: Path) -> None:
    own = Preprocessing(40, 36, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    card = ModelCard(
        reference="plain-cnn",
        task="classification",
        labels=("a", "b", "c"),
        in_channels=3,
        preprocessing=own.to_dict(),
    )
    module = create("plain-cnn", num_classes=3, in_channels=3, image_size=(40, 36))
    save_checkpoint(tmp_path / "net", module, card)
    options = options_for(image_folder)
    assert train(tmp_path / "net", "--out", tmp_path / "a", *options) == 0
    assert load_checkpoint(tmp_path / "a")[1].as_preprocessing() == own
    assert train(tmp_path / "net", "--out", tmp_path / "b", "--image-size", 32, *options) == 0
    other = load_checkpoint(tmp_path / "b")[1].as_preprocessing()
    assert other == replace(own, height=32, width=32)


def test_a_teacher_is_learned_from(
    tmp_path: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = (*options_for(image_folder), "--image-size", 28)
    assert train("plain-cnn", "--out", tmp_path / "big", *options) == 0
    assert train("cifar-resnet8", "--out", tmp_path / "alone", *options) == 0
    taught = ("--teacher", tmp_path / "big")
    assert train("cifar-resnet8", "--out", tmp_path / "taught", *taught, *options) == 0
    alone, taught_net = (load_checkpoint(tmp_path / name)[0] for name in ("alone", "taught"))
    pairs = zip(alone.parameters(), taught_net.parameters(), strict=True)
    assert any(not a.equal(b) for a, b in pairs)
    assert load_checkpoint(tmp_path / "taught")[1].lineage["teacher"] == str(tmp_path / "big")
    capsys.readouterr()
    code = train("plain-cnn", "--out", tmp_path / "x", *taught, *options, "--image-size", 48)
    assert code == 3
    told = capsys.readouterr().err.replace("\n", " ")
    assert "takes another input" in told
    card = load_checkpoint(tmp_path / "big")[1].model_copy(update={"labels": ("x", "y", "z")})
    save_checkpoint(tmp_path / "big", load_checkpoint(tmp_path / "big")[0], card)
    assert train("plain-cnn", "--out", tmp_path / "x", *taught, *options) == 3
    assert "3 classes (x, y, z)" in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "x").exists()


def test_places_that_cannot_be_written_are_told(
    tmp_path: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    assert train("plain-cnn", "--data", image_folder, "--out", file) == 3
    assert "is a file; a checkpoint is a folder" in capsys.readouterr().err.replace("\n", " ")
    log = tmp_path / "nowhere" / "a.log"
    assert run_command(["--log-file", str(log), "targets"]) == 2
    told = capsys.readouterr().err
    assert "--log-file" in told
    assert "Traceback" not in told
    for place in (file, file / "below"):  # EEXIST and ENOTDIR
        assert run_guarded(lambda place=place: place.mkdir(exist_ok=True)) == 3
        told = capsys.readouterr().err.replace("\n", " ")
        assert "A file is where a folder is needed" in told
        assert "Traceback" not in told
    assert run_guarded(lambda: (tmp_path / "none").read_bytes()) == 1  # ours, unless told better


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["plain-cnm"], 3, "Did you mean 'plain-cnn'"),
        (["plain-cnn", "--epochs", "0"], 3, "epochs"),
        (["plain-cnn", "--schedule", "up"], 3, "one-cycle"),
        (["plain-cnn", "--weights", "start.pth"], 3, "is a pickle"),
        (["plain-cnn", "--teacher", "nowhere"], 3, "is no checkpoint"),
        (["plain-cnn", "--temperature", "2"], 2, "--teacher CHECKPOINT"),
        (["plain-cnn", "--epoch", "1", "--no-such"], 2, "No such option"),
    ],
)
def test_bad_input_has_its_message_and_exit_code(
    tmp_path: Path,
    image_folder: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    assert train(*arguments, "--data", image_folder, "--out", tmp_path) == code
    assert message in capsys.readouterr().err.replace("\n", " ")
    assert list(tmp_path.iterdir()) == []
