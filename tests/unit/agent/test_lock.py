"""The machine's lock: who holds it, and what must not be taken for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgevision.agent.lock import machine_lock
from edgevision.errors import UnavailableError


def test_is_held_once(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with (
        machine_lock("bench", path),
        pytest.raises(UnavailableError, match=f"'bench' since .*process {os.getpid()}"),
        machine_lock("build-engine", path),
    ):
        pass
    with machine_lock("build-engine", path):
        assert "build-engine" in path.read_text()


def test_a_killed_holder_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    program = (
        "import os, sys; from pathlib import Path; from edgevision.agent.lock import machine_lock\n"
        "with machine_lock('bench', Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program, str(path)])
    with machine_lock("bench", path):
        pass


def test_another_file_is_never_written(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("of somebody")
    path = tmp_path / "lock"
    path.hardlink_to(other)
    with pytest.raises(UnavailableError, match="no plain file"), machine_lock("bench", path):
        pass
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UnavailableError, match="no plain file"), machine_lock("bench", path):
        pass
    path.unlink()
    path.symlink_to(other)
    with pytest.raises(OSError, match="symbolic"), machine_lock("bench", path):
        pass
    assert other.read_text() == "of somebody"


def test_what_a_holder_wrote_cannot_play_tricks(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with machine_lock("bench", path):
        path.write_text('{"user": "\\u001b[2J", "task": "x", "since": "now", "pid": 1}')
        with pytest.raises(UnavailableError) as caught, machine_lock("bench", path):
            pass
    assert "\x1b" not in str(caught.value)
