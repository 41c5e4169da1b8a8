from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from edgevision.models.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow


def train(folder: Path, images: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgevision", "train", "plain-cnn", "--data", str(images)]
    command += ["--out", str(folder), "--epochs", "2", "--batch-size", "20", "--precision", "fp32"]
    return subprocess.run(
        [*command, *options], capture_output=True, text=True, timeout=550, check=False
    )


def test_two_processes_train_one_network(tmp_path: Path, image_folder: Path) -> None:
    options = ("--devices", "2", "--accelerator", "cpu", "--epochs", "8")
    done = train(tmp_path / "two", image_folder, *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Checkpoint:") == 1  # the helper process is silent
    module, card = load_checkpoint(tmp_path / "two")
    history = json.loads((tmp_path / "two" / "history.json").read_text())
    assert len(history) == 8
    assert history[-1]["loss"] < history[0]["loss"]
    assert card.metrics["top1"] > 60
    assert all(torch.isfinite(p).all() for p in module.parameters())


def test_two_processes_carry_on_together(tmp_path: Path, image_folder: Path) -> None:
    options = ("--devices", "2", "--accelerator", "cpu")
    first = train(tmp_path / "net", image_folder, *options)
    again = train(tmp_path / "net", image_folder, *options)
    assert first.returncode == again.returncode == 0, again.stderr
    assert first.stdout.splitlines()[-2:] == again.stdout.splitlines()[-2:]


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path, image_folder: Path) -> None:
    done = train(tmp_path / "odd", image_folder, "--devices", "2", "--batch-size", "21")
    assert done.returncode == 2
    assert "21 cannot be divided evenly over 2 processes" in done.stderr
