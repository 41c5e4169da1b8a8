"""``bench`` and ``doctor`` on a tree in the shape of a Jetson: real networks, real measurement."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgevision.benchmark import BenchConfig
from edgevision.benchmark.report import render_html
from edgevision.benchmark.report_schema import read_report
from edgevision.cli.app import run_command
from edgevision.devices.sensors import Sensors, find_sensors
from edgevision.pipeline import bench as bench_module
from edgevision.pipeline import survey as survey_module
from edgevision.pipeline.bench import bench_bundle
from tests.unit.devices import jetson_trees as trees
from tests.unit.devices.jetson_trees import chip, write, write_tree

QUICK = BenchConfig(seconds=0.5, min_rounds=20, max_rounds=60)


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Path]:
    """An Orin Nano whose VDD_IN goes up and down between 5 and 15 W."""
    root = write_tree(tmp_path / "board", trees.ORIN_NANO_6)
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            for current in (1000, 3000):
                write(root, f"{chip(0)}/curr1_input", current)
                stop.wait(0.003)

    thread = threading.Thread(target=work)
    thread.start()
    yield root
    stop.set()
    thread.join()


def test_power_of_both_sides_is_in_the_report(bundle: Path, board: Path) -> None:
    phases: list[str] = []
    report = bench_bundle(
        bundle,
        config=QUICK,
        batch=2,
        sensors=find_sensors(board),
        progress=lambda phase, share: phases.append(phase),
    )
    assert report.power is not None
    assert report.power.total_of == ("VDD_IN",)
    assert report.power.idle_w is not None
    assert 5 <= report.power.idle_w <= 15
    assert list(report.power.runs) == ["model.fp32.onnx", "model.int8.onnx"]
    for run in report.power.runs.values():
        assert run.images % 2 == 0
        assert 5 <= run.mean_w <= run.peak_w <= 15
        joules = run.millijoules_per_image * run.images / 1000
        assert joules == pytest.approx(run.mean_w * run.seconds)
        assert set(run.rails) == {"VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"}
    assert report.conditions is not None
    assert report.conditions.clocks["GPU"].mean_mhz == 612
    assert report.conditions.highest_c == 48.25
    assert report.conditions.notices == ()
    assert {"power, idle", "power"} <= set(phases)
    assert read_report(report.to_bytes()) == report
    page = render_html(report)
    for text in ("mJ/image", "Total of VDD_IN", "nothing is subtracted", "Hottest: 48.2 °C"):
        assert text in page


def test_a_board_held_back_is_told(bundle: Path, board: Path) -> None:
    write(board, "sys/class/thermal/cooling_device0/cur_state", 1)
    report = bench_bundle(bundle, config=QUICK, sensors=find_sensors(board))
    assert report.conditions is not None
    told = "Heat held the machine back: gpu-throttle-alert."
    phases = ("Device", "End to end", "Power")
    assert report.conditions.notices == tuple(f"{phase}: {told}" for phase in phases)
    assert f"Power: {told}" in render_html(report)


def test_without_sensors_the_report_is_as_before(bundle: Path) -> None:
    report = bench_bundle(bundle, config=QUICK, sensors=Sensors())
    assert report.power is None
    assert report.conditions is None
    page = render_html(report)
    assert "<h2>Power</h2>" not in page
    assert "<h2>Clocks and heat</h2>" not in page


def test_the_command_shows_power(
    bundle: Path,
    board: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(bench_module, "find_sensors", functools.partial(find_sensors, board))
    write(board, "sys/class/thermal/cooling_device0/cur_state", 1)
    out = tmp_path / "out"
    assert run_command(["bench", str(bundle), "--seconds", "0.3", "--out", str(out)]) in (0, 5)
    told = capsys.readouterr().out
    assert "W is the total of VDD_IN; idle " in told
    assert "mJ/image" in told
    assert "Note: Device: Heat held the machine back: gpu-throttle-alert." in told
    assert json.loads((out / "report.json").read_bytes())["power"]["total_of"] == ["VDD_IN"]


def test_doctor_knows_the_board(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_tree(tmp_path / "nano", trees.ORIN_NANO_6)
    status = functools.partial(survey_module.jetson_status, root)
    monkeypatch.setattr(survey_module, "jetson_status", status)
    assert run_command(["doctor"]) == 0
    told = capsys.readouterr().out
    assert "NVIDIA Jetson Orin Nano 8GB (p3767-0005), L4T 36.4.3, JetPack 6.2" in told
    assert "Warning: The power mode is 15W (mode 0)" in told
    assert "sudo nvpmodel -m 2" in told
    assert "sudo jetson_clocks" in told
