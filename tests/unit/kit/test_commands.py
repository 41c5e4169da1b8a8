"""``build-engine --kit`` and ``import-kit``."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edgevision.cli.app import run_command
from tests.conformance.graphs import float_net
from tests.unit.kit.conftest import Board, Finished, pytestmark  # noqa: F401

Captured = pytest.CaptureFixture[str]


def test_what_came_back_is_shown_and_put_into_the_bundle(
    finished: Finished, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    place = shutil.copytree(finished.bundle, tmp_path / "bundle")
    assert run_command(["import-kit", str(finished.archive), "--bundle", str(place)]) == 0
    out = capsys.readouterr().out
    rows = dict(line.split("  ", 1) for line in out.splitlines() if "  " in line)
    assert rows["Device"].strip() == "NVIDIA Jetson Orin Nano 8GB, L4T 36.4.3, JetPack 6.2"
    assert rows["TensorRT"].strip() == "10.3.0.26"
    assert rows["Power mode"].strip() == "15W (mode 0); clocks followed the load"
    assert rows["Layers"].strip() == "2 fp16"
    assert (
        rows["trtexec: GPU compute time"].strip()
        == "3.995, 5.950 ms (p50, p99 of 400 queries of batch 4)"
    )
    assert f"Engine: {place}/engines/jetson-orin-nano/" in out


def test_a_kit_is_written_built_and_imported(tmp_path: Path, capsys: Captured) -> None:
    net, kit = str(float_net(tmp_path / "net.onnx")), tmp_path / "kit"
    command = ["build-engine", net, "--target", "jetson-orin-nano", "--kit", str(kit)]
    assert run_command([*command, "--max-batch", "4", "--builder-level", "1"]) == 0
    assert f"Kit: {kit}" in capsys.readouterr().out
    assert Board(tmp_path / "board").run(kit).returncode == 0
    engine = tmp_path / "net.engine"
    assert run_command(["import-kit", str(kit / "result"), "--out", str(engine)]) == 0
    assert f"Engine: {engine}" in capsys.readouterr().out
    assert (tmp_path / "net.engine.json").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["import-kit", "none.tar.gz", "--out", "x"], 3, "No result at none.tar.gz"),
        (
            ["build-engine", "m.onnx", "--target", "jetson-orin-nano", "--kit", "k", "--out", "x"],
            2,
            "--kit goes without",
        ),
        (["build-engine", "m.onnx", "--target", "rtx", "--kit", "k"], 2, "runs tensorrt_rtx"),
        (["build-engine", "none.onnx", "--target", "jetson-thor", "--kit", "k"], 3, "No file at"),
    ],
)
def test_bad_use_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
    arguments: list[str],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(arguments) == code
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
