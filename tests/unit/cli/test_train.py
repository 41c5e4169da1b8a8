from __future__ import annotations

from pathlib import Path

import pytest

from edgevision.cli.app import run_command
from edgevision.models.checkpoint import load_checkpoint


def train(*arguments: object) -> int:
    return run_command(["train", *map(str, arguments)])


def test_writes_a_checkpoint_that_can_be_trained_on(
    tmp_path: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--data", image_folder, "--epochs", 1, "--batch-size", 40, "--precision", "fp32")
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


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["plain-cnm"], 3, "Did you mean 'plain-cnn'"),
        (["plain-cnn", "--epochs", "0"], 3, "epochs"),
        (["plain-cnn", "--schedule", "up"], 3, "one-cycle"),
        (["plain-cnn", "--weights", "start.pth"], 3, "is a pickle"),
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
