"""A device that is a host of its own: an sshd in another network namespace."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conformance.graphs import float_net
from tests.conftest import Cli
from tests.unit.remote.conftest import Server, configured, start

pytestmark = pytest.mark.slow

HERE, THERE = "10.213.77.1", "10.213.77.2"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Server]:
    """An sshd whose namespace has nothing but one end of a cable to this one."""
    name = f"edgevision{os.getpid() % 10_000}"
    near, far = f"ev{os.getpid() % 10_000}a", f"ev{os.getpid() % 10_000}b"
    if shutil.which("ip") is None:
        pytest.skip("no ip command on this machine")
    try:
        _ip("netns", "add", name)
    except subprocess.CalledProcessError:
        pytest.skip("no network namespace can be made here")
    try:
        _ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", name)
        _ip("addr", "add", f"{HERE}/30", "dev", near)
        _ip("link", "set", near, "up")
        _ip("-n", name, "addr", "add", f"{THERE}/30", "dev", far)
        _ip("-n", name, "link", "set", far, "up")
        _ip("-n", name, "link", "set", "lo", "up")
        yield from start(tmp_path, THERE, ("ip", "netns", "exec", name))
    finally:
        subprocess.run(["ip", "link", "del", near], capture_output=True)
        _ip("netns", "del", name)


def test_all_commands(
    cli: Cli, host: Server, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = configured(host, monkeypatch)
    Image.fromarray(np.zeros((20, 24, 3), np.uint8)).save(tmp_path / "photo.png")
    model = float_net(tmp_path / "net.onnx")
    for arguments in (
        ("doctor",),
        ("bench", bundle, "--seconds", "1", "--out", tmp_path / "bench"),
        ("run", bundle, "--source", tmp_path / "photo.png"),
        ("verify", bundle),
        ("profile", "plain-cnn", "--data", "fashion-mnist-mini", "--seconds", "2", "--maps", "1",
         "--out", tmp_path / "profile"),
        ("build-engine", model, "--target", "rtx", "--compute-capability", "86"),
    ):  # fmt: skip
        done = cli(*arguments, "--device", board)
        assert done.returncode in ((0, 5) if arguments[0] == "bench" else (0,)), done.stderr
        assert "On board:" in done.stderr
    assert (tmp_path / "net.rtx.engine").is_file()
    assert (tmp_path / "profile" / "profile.html").is_file()
    assert not list((host.cache / "work").iterdir())
