"""A front on this machine: interrupted, carried on, and every bundle looked at."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgevision.bundle import open_bundle
from edgevision.pipeline import compress_front, timing
from edgevision.pipeline.front import read_front
from edgevision.recipe import Recipe, load_recipe
from edgevision.runtime import load
from tests.e2e.small import RECIPE, write_recipe

# Half of this network's INT8 time goes with its widths, on a busy machine too.
MODEL = "plain-cnn"
PRUNE: dict[str, Any] = {"fine_tune": {"epochs": 1}}
# Regions are chosen by measured times; without them two runs are the same.
QUANTIZE = {"images": 32, "regions": False}
VERIFY = {"max_accuracy_drop": 60, "seconds": 1, "threads": 1, "speedup": 0.01}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer and shorter measurements than deserve trust."""
    monkeypatch.setattr(timing, "NETWORKS", 12)
    monkeypatch.setattr(timing, "SECONDS", 1.0)
    monkeypatch.setattr(timing, "CONFIRM_SECONDS", 0.5)


def recipe(data: Path) -> Recipe:
    fields = {"model": MODEL, "data": str(data), "prune": PRUNE}
    fields |= {"quantize": QUANTIZE, "verify": VERIFY}
    return load_recipe(None, {**RECIPE, **fields})


@pytest.mark.usefixtures("quick")
def test_a_front_is_carried_on_where_it_stopped(tmp_path: Path, image_folder: Path) -> None:
    def dies(phase: str, done: int, total: int, note: str = "") -> None:
        if phase.startswith("point 2 of 2: fine-tuning") and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress_front(recipe(image_folder), 2, out=tmp_path, progress=dies)
    first = tmp_path / "front-1" / "manifest.json"
    assert first.exists()
    assert not (tmp_path / "front-2").exists()
    assert not (tmp_path / "front.json").exists()
    made = {path.name: path.stat().st_ino for path in (tmp_path / "stages").iterdir()}
    inode = first.stat().st_ino

    (tmp_path / "front-3").mkdir()  # of a larger front
    result = compress_front(recipe(image_folder), 2, out=tmp_path)
    assert result.earlier == (tmp_path / "front-3",)
    now = {path.name: path.stat().st_ino for path in (tmp_path / "stages").iterdir()}
    # What a busy machine measured is measured again, and changes the bundle's report.
    measured_once = result.points["front-1"].stages["verify"].reused
    assert (first.stat().st_ino == inode) == measured_once
    kept = [name for name in made if not name.startswith(("prune", "verify", "bundle", "."))]
    assert {"baseline", "profile", "export", "speeds"} <= {name.split("-")[0] for name in kept}
    assert all(now[name] == made[name] for name in kept)
    whole = [name.rpartition("-")[0] for name in now]
    for shared in ("baseline", "profile", "export", "speeds", "prune", "export-pruned"):
        assert whole.count(shared) == 1
    assert whole.count("quantize") == whole.count("verify") == 2

    front = result.front
    assert [row.name for row in front.rows] == ["FP32", "front-1", "front-2"]
    assert [row.kind for row in front.rows[:2]] == ["FP32", "INT8 only"]
    floats = front.rows[2].artifact == "model.pruned.fp32.onnx"
    assert front.rows[2].kind == ("pruned FP32" if floats else "pruned + INT8")
    assert front == read_front(tmp_path / "front.json")
    assert set(front.latency.runs) == {"FP32", "front-1", "front-2"}
    assert len({run.samples for run in front.latency.runs.values()}) == 1  # interleaved
    for row in front.rows:
        assert row.latency_p50_ms == front.latency.runs[row.name].latency_p50_ms
        assert row.name in (tmp_path / "front.html").read_text()
    for row in front.points:
        with open_bundle(tmp_path / row.name) as bundle:
            verdict = bundle.manifest.verdict
            assert verdict is not None
            assert verdict.accuracy is not None
            assert verdict.accuracy.candidate == row.accuracy
            assert (verdict.passed, bundle.manifest.artifact(row.artifact).role) == (
                row.passed,
                "shipped",
            )
            assert bundle.manifest.artifact(row.artifact).size == row.bytes
        with load(tmp_path / row.name, artifact=row.artifact) as model:
            model(np.zeros((28, 28, 3), np.uint8))
    table = result.points["front-2"].stages["prune"].json("table.json")
    assert (front.rows[2].macs, front.rows[1].macs) == (table["macs_after"], table["macs_before"])

    again = compress_front(recipe(image_folder), 2, out=tmp_path)
    steady = all(row.steady for row in front.rows)
    assert not steady or again.front == front


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_killed_command_goes_on(tmp_path: Path, image_folder: Path) -> None:
    changes = {"model": MODEL, "prune": PRUNE, "quantize": QUANTIZE, "verify": VERIFY}
    path = write_recipe(tmp_path, image_folder, **changes)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "edgevision", "compress", "--recipe", str(path)]
    command += ["--front", "2", "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (out / "front-1").exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (out / "front.json").exists()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "profile: kept from an earlier run" in done.stdout
    assert "point 1 of 2: build: kept from an earlier run" in done.stdout
    assert [row.name for row in read_front(out / "front.json").rows][-1] == "front-2"
