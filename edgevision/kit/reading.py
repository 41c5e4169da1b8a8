"""Takes a kit's result apart: unpacked with every size bounded, each file against its hash."""

from __future__ import annotations

import gzip
import re
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from edgevision.errors import InputError
from edgevision.files import sha256_file
from edgevision.kit.contents import ENGINE, FACTS, KIT, RESULT, SCRIPT, SUMS, TIMING_CACHE, is_plain

_MOST_FILES = 2000
_LARGE = frozenset({ENGINE, TIMING_CACHE})
_MOST_BYTES = 8 << 30  # of each of the large ones
_MOST_TEXT = 128 << 20  # of any other: ten seconds of times are some megabytes
_MOST_TEXTS = 1 << 30  # of all others together
_BLOCK = 512
_PADDING = 1 << 20  # zeros after the end of an archive
_CHUNK = 1 << 20
_LINE = re.compile(r"([0-9a-f]{64})  (\S+)")
_AGAIN = "Copy result.tar.gz from the device again."
_NO_SUCH = "Give result.tar.gz, or the folder 'result', that build.sh wrote."


@contextmanager
def opened_result(place: Path) -> Iterator[Path]:
    """The folder of a result, each of its files checked; that of an archive is temporary.

    Args:
        place: ``result.tar.gz`` or the folder ``result``.

    Raises:
        InputError: there is none; or it is damaged or cut short, holds something that is no plain
            file, a name that leaves the folder, or more than a result can.
    """
    if place.is_dir():
        folder = place / RESULT if (place / RESULT).is_dir() else place  # the kit itself will do
        if (folder / SCRIPT).is_file():
            raise InputError(
                f"The kit in {place} was not run yet.", hint="On the board, in it: sh build.sh"
            )
        if not (folder / SUMS).is_file():
            raise InputError(f"{place} holds no result: there is no {SUMS}.", hint=_NO_SUCH)
        _check(folder)
        yield folder
        return
    if not place.is_file():
        raise InputError(f"No result at {place}.", hint=_NO_SUCH)
    with TemporaryDirectory(prefix="edgevision-kit-") as temporary:
        folder = Path(temporary)
        _unpack(place, folder)
        _check(folder)
        yield folder


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack plain files of the tree ``result/`` alone; extensions of the format are refused."""
    try:
        with gzip.open(archive, "rb") as stream:
            _unpack_members(stream, folder, archive.name)
    except (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError, UnicodeError) as error:
        raise InputError(
            f"'{archive.name}' is no whole result: {str(error)[:200]}.", hint=_AGAIN
        ) from error


def _unpack_members(stream: gzip.GzipFile, folder: Path, archive: str) -> None:
    written: set[str] = set()
    texts = 0
    while True:
        block = _exactly(stream, _BLOCK)
        if not block.strip(b"\0"):
            break
        member = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        name = member.name.rstrip("/")
        if member.type == tarfile.DIRTYPE and member.size == 0 and is_plain(name):
            continue
        top, _, inner = name.partition("/")
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise InputError(f"'{archive}' holds something that is no plain file: {name[:100]!r}.")
        if top != RESULT or not is_plain(inner):
            raise InputError(f"'{archive}' holds a file of another place: {name[:100]!r}.")
        if inner.lower() in written or len(written) >= _MOST_FILES:
            raise InputError(f"'{archive}' holds '{inner}' twice, or over {_MOST_FILES} files.")
        written.add(inner.lower())
        _check_size(inner, member.size)
        texts += 0 if inner in _LARGE else member.size
        if texts > _MOST_TEXTS:
            raise InputError(f"'{archive}' expected: at most {_MOST_TEXTS} bytes of texts.")
        target = folder / inner
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                _copy(stream, file, member.size)
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise InputError(f"'{archive}' holds '{inner}' as file and as folder.") from error
        _exactly(stream, -member.size % _BLOCK)
    # Up to the end, so that gzip's own checksum is compared.
    rest = stream.read(_PADDING)
    if rest.strip(b"\0") or stream.read(1):
        raise InputError(f"'{archive}' goes on after its end.", hint=_AGAIN)


def _exactly(stream: gzip.GzipFile, size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise EOFError("it is cut short")
    return data


def _copy(stream: gzip.GzipFile, file: IO[bytes], size: int) -> None:
    while size:
        size -= file.write(_exactly(stream, min(size, _CHUNK)))


def _check_size(name: str, size: int) -> None:
    most = _MOST_BYTES if name in _LARGE else _MOST_TEXT
    if not 0 <= size <= most:
        raise InputError(f"'{name}' of the result expected: at most {most} bytes, found: {size}.")


def _check(folder: Path) -> None:
    """Compare the files of ``folder`` with those that its sums name."""
    found = set()
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise InputError(f"The result holds something that is no plain file: {name[:100]!r}.")
        if path.is_file():
            found.add(name)
            _check_size(name, path.stat().st_size)
        if len(found) > _MOST_FILES:
            raise InputError(f"The result holds over {_MOST_FILES} files.")
    sums = _sums(folder)
    for name in sorted({*found, *sums, KIT, FACTS, ENGINE} - {SUMS}):
        if name not in found:
            raise InputError(f"The result lacks '{name}'.", hint=_AGAIN)
        if name not in sums:
            raise InputError(f"The result holds '{name[:100]}', which {SUMS} does not name.")
        if sha256_file(folder / name) != sums[name]:
            raise InputError(f"'{name}' of the result is not what its hash says.", hint=_AGAIN)


def _sums(folder: Path) -> dict[str, str]:
    path = folder / SUMS
    if not path.is_file():
        raise InputError(f"The result lacks '{SUMS}'.", hint=_AGAIN)
    sums = {}
    for line in path.read_bytes().decode("utf-8", "replace").splitlines():
        found = _LINE.fullmatch(line)
        if found is None or not is_plain(found[2]):
            raise InputError(f"{SUMS} of the result has a line of another form: {line[:100]!r}.")
        sums[found[2]] = found[1]
    return sums
