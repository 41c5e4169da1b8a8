"""A real SSH server on the loopback, with keys of its own: the device of these tests."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@dataclass
class Server:
    """A running sshd and how to get in."""

    port: int
    folder: Path
    host: str = "127.0.0.1"

    @property
    def options(self) -> dict[str, Any]:
        return {
            "known_hosts": str(self.folder / "known_hosts"),
            "client_keys": [str(self.folder / "user_key")],
            "config": None,
            "agent_path": None,
        }

    @property
    def url(self) -> str:
        return self.address(self.port, sys.executable)

    @property
    def cache(self) -> Path:
        """Where the agent keeps everything."""
        return self.folder / "cache" / "edgevision"

    def address(self, port: int, python: str) -> str:
        return f"ssh://{getpass.getuser()}@{self.host}:{port}?python={python}"


def start(folder: Path, host: str = "127.0.0.1", inside: tuple[str, ...] = ()) -> Iterator[Server]:
    """An sshd of its own that lets ``user_key`` in; its sessions cache in ``folder/cache``.

    ``inside``: a command that runs another one where ``host`` is an address.
    """
    if SSHD is None:
        pytest.skip("no sshd on this machine")
    for name in ("host_key", "user_key"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True
        )
    with socket.socket() as free:  # a port that is free here is free there
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    host_key = (folder / "host_key.pub").read_text()
    (folder / "known_hosts").write_text(f"[{host}]:{port} {host_key}")
    shutil.copy(folder / "user_key.pub", folder / "authorized")
    config = folder / "sshd_config"
    config.write_text(
        f"""
Port {port}
ListenAddress {host}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized
PidFile {folder}/pid
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
Subsystem sftp internal-sftp
SetEnv XDG_CACHE_HOME={folder}/cache HOME={folder} PYTHONWARNINGS=error MKL_NUM_THREADS=3
"""
    )
    log = folder / "log"
    with suppress(PermissionError):  # where root's sshd goes to lose its rights
        Path("/run/sshd").mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen([*inside, SSHD, "-D", "-f", str(config), "-E", str(log)])
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex((host, port)) == 0:
                    break
            time.sleep(0.02)
        yield Server(port, folder, host)
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    yield from start(tmp_path)


@pytest.fixture
def board(server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of the server as a user's own SSH configuration knows it."""
    return configured(server, monkeypatch)


def configured(server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make the user's SSH configuration one that knows ``server`` as ``board``; its address."""
    folder = server.folder / "home" / ".ssh"
    folder.mkdir(parents=True)
    (folder / "config").write_text(
        f"Host board\n HostName {server.host}\n Port {server.port}\n User {getpass.getuser()}\n"
        f" IdentityFile {server.folder}/user_key\n"
        f" UserKnownHostsFile {server.folder}/known_hosts\n"
    )
    monkeypatch.setenv("HOME", str(folder.parent))
    return f"ssh://board?python={sys.executable}"
