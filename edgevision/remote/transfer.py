"""Files over SFTP: in pieces that are under way together, carried on where they were cut."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from edgevision.errors import InputError
from edgevision.files import sha256_file
from edgevision.lazy import require

if TYPE_CHECKING:
    import asyncssh

_PIECE = 1 << 15  # what every server takes in one message
_BATCH = 64 * _PIECE  # bytes under way together; what an interrupted run repeats at most
Told = Callable[[int, int], None]


async def upload_bytes(sftp: asyncssh.SFTPClient, data: bytes, path: str) -> None:
    """Write ``data`` to ``path``, which appears whole."""
    part = f"{path}.{secrets.token_hex(8)}.part"  # another process may be sending the same
    async with sftp.open(part, "wb") as file:
        await _write(file, data, 0)
    await sftp.posix_rename(part, path)


async def upload_part(sftp: asyncssh.SFTPClient, source: Path, path: str, told: Told) -> None:
    """Write ``source`` to ``<path>.part``; carries on where an earlier call was cut.

    Args:
        told: called with bytes there and bytes in all.
    """
    part = f"{path}.part"
    total = source.stat().st_size
    ssh = require("asyncssh")
    # Made but never emptied: other processes that send the same write the same bytes into it.
    async with sftp.open(part, ssh.FXF_WRITE | ssh.FXF_CREAT, encoding=None) as file:
        there = (await file.stat()).size or 0
        # Of the last batch, pieces may be missing in the middle.
        place = max(0, min(there, total) // _BATCH - 1) * _BATCH
        with source.open("rb") as reader:
            reader.seek(place)
            while data := reader.read(_BATCH):
                told(place, total)
                await _write(file, data, place)
                place += len(data)
        await file.setstat(_size(total))
    told(total, total)


async def download(
    sftp: asyncssh.SFTPClient, path: str, sha256: str, size: int, target: Path, told: Told
) -> None:
    """Fetch ``path`` to ``target``, which appears whole and with this hash.

    A part that an earlier call left beside it is carried on.

    Raises:
        InputError: what arrives has another hash.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{sha256[:16]}.part")
    place = part.stat().st_size if part.exists() else 0
    async with sftp.open(path, "rb") as file:
        with part.open("ab") as writer:
            while place < size:
                told(place, size)
                starts = range(place, min(size, place + _BATCH), _PIECE)
                reads = [cast(Awaitable[bytes], file.read(_PIECE, start)) for start in starts]
                data = b"".join(await asyncio.gather(*reads))
                if not data:
                    break
                writer.write(data)
                place += len(data)
    told(size, size)
    found = sha256_file(part)
    if found != sha256:
        part.unlink()
        raise InputError(f"'{target.name}' arrived damaged: sha256 {sha256}, found {found}.")
    part.replace(target)


async def _write(file: asyncssh.SFTPClientFile, data: bytes, place: int) -> None:
    starts = range(0, len(data), _PIECE)
    await asyncio.gather(*(file.write(data[i : i + _PIECE], place + i) for i in starts))


def _size(total: int) -> asyncssh.SFTPAttrs:
    attributes: asyncssh.SFTPAttrs = require("asyncssh").SFTPAttrs(size=total)
    return attributes
