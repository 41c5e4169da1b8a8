"""Downloads from a server of our own: resumed, checked, and never half a file under its name."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from edgevision.data import download as module
from edgevision.data.cache import alone, cache_folder
from edgevision.data.download import download
from edgevision.errors import DataError
from edgevision.files import replacing

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves ``CONTENT``; the attributes say how badly."""

    daemon_threads = True
    asked: list[str | None]
    drop_after: int | None = None  # bytes of each answer before the connection breaks
    has_ranges = True
    status = 200
    pause_s = 0.0


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        if self.server.status != 200:
            self.send_error(self.server.status)
            return
        start = 0
        if asked and self.server.has_ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])  # type: ignore[index]
            if start >= len(CONTENT):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
        else:
            self.send_response(200)
        rest = CONTENT[start:]
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        rest = rest[: self.server.drop_after]
        try:
            for at in range(0, len(rest), 100_000):
                self.wfile.write(rest[at : at + 100_000])
                time.sleep(self.server.pause_s)
        except OSError:
            pass
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(module, "_PAUSE_S", 0)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server(("127.0.0.1", 0), Handler) as running:
        running.asked = []
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_port}/set.bin"


def fetch(server: Server, path: Path, sha256: str = SHA256) -> list[tuple[str, int, int]]:
    told: list[tuple[str, int, int]] = []
    download(lambda: url(server), path, sha256=sha256, progress=lambda *step: told.append(step))
    return told


def test_a_file_comes_whole_and_only_once(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "set.bin"
    told = fetch(server, path)
    assert path.read_bytes() == CONTENT
    assert told[0] == ("downloading", 0, len(CONTENT))
    assert told[-1] == ("downloading", len(CONTENT), len(CONTENT))
    fetch(server, path)
    assert server.asked == [None]
    assert not (path.parent / "set.bin.part").exists()


def test_a_broken_connection_is_carried_on(server: Server, tmp_path: Path) -> None:
    server.drop_after = 1_200_000
    fetch(server, tmp_path / "set.bin")
    assert (tmp_path / "set.bin").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1200000-", "bytes=2400000-"]


def test_what_came_before_the_failure_is_kept(server: Server, tmp_path: Path) -> None:
    server.drop_after = 500_000
    with pytest.raises(DataError, match=r"set\.bin: the download stopped.*") as caught:
        fetch(server, tmp_path / "set.bin")
    assert "carries on" in str(caught.value.hint)
    assert not (tmp_path / "set.bin").exists()
    server.drop_after = None
    server.asked.clear()
    fetch(server, tmp_path / "set.bin")
    assert (tmp_path / "set.bin").read_bytes() == CONTENT
    assert server.asked == ["bytes=2000000-"]


def test_a_killed_process_is_carried_on(server: Server, tmp_path: Path) -> None:
    path, part = tmp_path / "set.bin", tmp_path / "set.bin.part"
    server.pause_s = 0.05
    code = (
        "import sys; from pathlib import Path; from edgevision.data.download import download\n"
        "download(lambda: sys.argv[1], Path(sys.argv[2]), sha256=sys.argv[3], "
        "progress=lambda *_: None)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, url(server), str(path), SHA256])
    until = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size > 500_000) and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    have = part.stat().st_size
    assert 500_000 < have < len(CONTENT)
    server.pause_s = 0
    fetch(server, path)
    assert path.read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={have}-"]


def test_a_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.bin.part").write_bytes(b"x" * 1000)
    server.has_ranges = False
    fetch(server, tmp_path / "set.bin")
    assert (tmp_path / "set.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("extra", [0, 7])
def test_a_part_that_is_whole_or_too_long(server: Server, tmp_path: Path, extra: int) -> None:
    (tmp_path / "set.bin.part").write_bytes(CONTENT + b"x" * extra)
    fetch(server, tmp_path / "set.bin")
    assert (tmp_path / "set.bin").read_bytes() == CONTENT


def test_another_content_is_refused_and_not_kept(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"expected sha256 {'0' * 64}, got {SHA256}"):
        fetch(server, tmp_path / "set.bin", "0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_fetched_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.bin").write_bytes(CONTENT[:-1])
    fetch(server, tmp_path / "set.bin")
    assert (tmp_path / "set.bin").read_bytes() == CONTENT


@pytest.mark.parametrize(("status", "attempts"), [(404, 1), (403, 1), (503, 4)])
def test_refusals_of_the_server(server: Server, tmp_path: Path, status: int, attempts: int) -> None:
    server.status = status
    with pytest.raises(DataError, match=str(status)):
        fetch(server, tmp_path / "set.bin")
    assert len(server.asked) == attempts


def test_one_at_a_time(tmp_path: Path) -> None:
    inside, most = [], []

    def work() -> None:
        with alone(tmp_path / "deep" / "x.lock"):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 4


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://x/y", "", "/etc/passwd"])
def test_only_web_addresses(tmp_path: Path, place: str) -> None:
    with pytest.raises(DataError, match="is no web address"):
        download(lambda: place, tmp_path / "x", sha256="0", progress=lambda *_: None)


def test_nobody_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAUSE_S", 0)
    with pytest.raises(DataError, match="the download stopped"):
        download(
            lambda: "http://127.0.0.1:9/x", tmp_path / "x", sha256="0", progress=lambda *_: None
        )


def test_replacing_keeps_the_old_file_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with replacing(path) as file:
        file.write(b"new")
    assert path.read_text() == "new"


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("EDGEVISION_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "edgevision"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "edgevision"
    monkeypatch.setenv("EDGEVISION_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    assert cache_folder(tmp_path / "other") == tmp_path / "other"
