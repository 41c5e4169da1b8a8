"""One file over HTTP: carried on where it stopped, checked, and only then given its name."""

from __future__ import annotations

import hashlib
import http.client
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from edgevision.data.builtin.base import Progress
from edgevision.errors import DataError

_TIMEOUT_S = 20
_ATTEMPTS = 4
_PAUSE_S = 0.5
_CHUNK = 1 << 18
# A full disk is an OSError too, and no reason to try again: it goes up as it is.
_NETWORK = (
    urllib.error.URLError,
    http.client.HTTPException,
    ConnectionError,
    TimeoutError,
    ssl.SSLError,
)


def download(
    url: Callable[[], str],
    path: Path,
    *,
    sha256: str,
    progress: Progress,
) -> Path:
    """Bring the file at ``url()`` to ``path``; what lies there whole already is kept.

    A part of it lies in ``path`` + ``.part`` until it is whole, also after the process was
    killed, and the next call asks the server for the rest only. The caller sees to it that one
    process at a time is here.

    Args:
        url: asked only when there is something to download.
        sha256: hex; the file is not given its name before it agrees.

    Raises:
        DataError: the server cannot be reached or what it sent has another checksum.
    """
    if path.is_file() and file_sha256(path) == sha256:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    place = url()
    if not place.startswith(("https://", "http://")):
        raise DataError(f"{path.name}: '{place}' is no web address.")
    _whole(place, part, progress)
    found = file_sha256(part)
    if found != sha256:
        part.unlink()
        raise DataError(f"{path.name}: expected sha256 {sha256}, got {found}.")
    part.replace(path)
    return path


def _whole(url: str, part: Path, progress: Progress) -> None:
    """Complete ``part``, carrying on after a broken connection a few times."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            _rest(url, part, progress)
            return
        except _NETWORK as error:
            code = error.code if isinstance(error, urllib.error.HTTPError) else 500
            if attempt == _ATTEMPTS or (code < 500 and code != 416):
                raise DataError(
                    f"{part.stem}: the download stopped: {error}",
                    hint="Run the same command again: it carries on where it stopped.",
                ) from error
            time.sleep(_PAUSE_S * attempt)


def _rest(url: str, part: Path, progress: Progress) -> None:
    """Append to ``part`` what is missing of the file at ``url``."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "edgevision"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416:  # nothing is missing, or the part is longer than the file
                if error.headers.get("Content-Range", "").endswith(f"/{have}"):
                    return
                part.unlink()  # and from the start with the next attempt
            raise
    with answer, part.open("ab") as file:
        if answer.status != 206:  # the server sends the whole file again
            file.truncate(0)
            have = 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else 0
        progress("downloading", have, total)
        while chunk := answer.read(_CHUNK):
            file.write(chunk)
            have += len(chunk)
            progress("downloading", have, total)
        file.flush()
        os.fsync(file.fileno())
    if total and have < total:
        raise http.client.IncompleteRead(b"", total - have)


def file_sha256(path: Path) -> str:
    """sha256 hex of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
