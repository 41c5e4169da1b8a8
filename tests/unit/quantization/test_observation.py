"""Lanes: images handed to threads or processes, and what happens when one goes wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgevision.errors import EdgeVisionError, ModelError
from edgevision.quantization.calibrators import CALIBRATORS
from edgevision.quantization.observation import Probe, ProcessLane, observe, open_lanes


@pytest.fixture
def probe(make_model):
    model = make_model("(float[n,3] x) => (float[n,3] y) { y = Exp (x) }")
    return Probe(model.SerializeToString(), ("y",), ("x",), CALIBRATORS.get("minmax"))


def feeds(*values: float):
    return [{"x": np.full((1, 3), value, np.float32)} for value in values]


def done() -> None:
    return


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("processes", [1, 2])
def test_what_goes_wrong_in_a_lane_is_told_once(probe, processes):
    before = threading.active_count()
    lanes = open_lanes(probe, processes=processes, threads=2)
    with pytest.raises(ModelError, match="Tensor 'y': NaN or infinite"):
        observe(lanes, feeds(1, 2, 200, 3, 300), done)
    assert threading.active_count() <= before


def test_a_killed_process_is_told_and_leaves_nothing_behind(probe):
    before = threading.active_count()
    lanes = open_lanes(probe, processes=2, threads=1)
    pids = [lane._process.pid for lane in lanes]

    def images():
        yield from feeds(1, 2, 3)
        os.kill(pids[0], signal.SIGKILL)
        yield from feeds(*range(50))

    with pytest.raises(EdgeVisionError, match="ended before its time, exit status -9") as raised:
        observe(lanes, images(), done)
    assert "fewer processes" in str(raised.value)
    assert not any(map(alive, pids))
    assert threading.active_count() <= before


def test_an_error_while_reading_images_ends_the_processes(probe):
    before = threading.active_count()
    lanes = open_lanes(probe, processes=2, threads=1)
    pids = [lane._process.pid for lane in lanes]

    def images():
        yield from feeds(1, 2, 3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        observe(lanes, images(), done)
    assert not any(map(alive, pids))
    assert threading.active_count() <= before


def test_a_process_ends_when_its_parent_is_killed(tmp_path, make_model):
    """And needs no guard in the parent's script, nor its standard output."""
    model = make_model("(float[n,3] x) => (float[n,3] y) { y = Exp (x) }")
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, time\n"
        "from pathlib import Path\n"
        "from edgevision.quantization.calibrators import CALIBRATORS\n"
        "from edgevision.quantization.observation import Probe, ProcessLane\n"
        f"model = Path({str(path)!r}).read_bytes()\n"
        "lane = ProcessLane(Probe(model, ('y',), (), CALIBRATORS.get('minmax')))\n"
        "print(lane._process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    root = str(Path(__file__).parents[3])
    with subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
    deadline = time.monotonic() + 60
    while alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_model_that_cannot_run_is_refused_before_any_process_starts(probe, monkeypatch):
    monkeypatch.setattr(ProcessLane, "__init__", lambda *_: pytest.fail("started"))
    broken = Probe(b"no model", ("y",), (), probe.observer)
    with pytest.raises(ModelError, match="ONNX Runtime cannot run the model"):
        open_lanes(broken, processes=2, threads=1)
