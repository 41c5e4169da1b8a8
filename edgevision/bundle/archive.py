"""The zip form of a bundle: written deterministically, unpacked with every size bounded."""

from __future__ import annotations

import hashlib
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from edgevision.bundle import integrity
from edgevision.bundle.manifest import (
    MANIFEST_NAME,
    SIGNATURE_NAME,
    ArtifactEntry,
    Manifest,
    check_path,
    parse_manifest,
)
from edgevision.errors import BundleError

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date that a zip can hold
_MAX_MESSAGE = 200
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

# What zipfile and zlib raise on damaged archives.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OverflowError,
    IndexError,
)


def write_archive(folder: Path, manifest: Manifest, path: Path) -> None:
    """Write the files of ``folder`` that ``manifest`` names into the zip ``path``, signed or not.

    Order, dates and permissions are fixed, so equal folders give equal bytes.
    """
    with zipfile.ZipFile(path, "w") as archive:
        signature = [SIGNATURE_NAME] if (folder / SIGNATURE_NAME).is_file() else []
        named = sorted(entry.path for entry in manifest.artifacts)
        for name in [MANIFEST_NAME, *signature, *named]:
            info = zipfile.ZipInfo(name, _EPOCH)
            info.create_system = 3
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            info.file_size = (folder / name).stat().st_size
            with (folder / name).open("rb") as source, archive.open(info, "w") as target:
                while chunk := source.read(integrity.CHUNK):
                    target.write(chunk)


def extract(path: Path, folder: Path, *, strict: bool = True) -> tuple[Manifest, integrity.Damaged]:
    """Check the zip at ``path`` and unpack it into the empty ``folder``.

    No more than the declared size of an entry is ever unpacked, so a zip bomb costs nothing. With
    ``strict`` False engines may be damaged; those are not unpacked.

    Raises:
        BundleError: not a zip, entries that are links, encrypted, duplicate, badly named or of
            another size than declared, or files whose hash is not the manifest's.
    """
    try:
        archive = zipfile.ZipFile(path)
    except _DAMAGE as error:
        raise BundleError(
            f"{path} is neither a bundle folder nor a readable zip: {_told(error)}"
        ) from error
    except OSError as error:
        # zipfile seeks to where a damaged directory says; that is the archive's fault.
        if error.errno is None or error.filename is not None:
            raise
        raise BundleError(f"{path} is a damaged zip: {_told(error)}") from error
    with archive:
        entries = _checked_entries(archive)
        if MANIFEST_NAME not in entries:
            raise BundleError(f"No {MANIFEST_NAME} in {path}.")
        if entries[MANIFEST_NAME].file_size > integrity.MAX_MANIFEST:
            raise BundleError(
                f"{MANIFEST_NAME} expected: at most {integrity.MAX_MANIFEST} bytes, "
                f"found: {entries[MANIFEST_NAME].file_size}."
            )
        data = b"".join(_read(archive, entries[MANIFEST_NAME]))
        manifest = parse_manifest(data)
        unnamed = (MANIFEST_NAME, SIGNATURE_NAME)
        sizes = {name: info.file_size for name, info in entries.items() if name not in unnamed}
        damaged = integrity.check_declared(manifest, sizes, strict=strict)
        (folder / MANIFEST_NAME).write_bytes(data)
        if SIGNATURE_NAME in entries:
            integrity.check_signature_size(entries[SIGNATURE_NAME].file_size)
            signature = b"".join(_read(archive, entries[SIGNATURE_NAME]))
            (folder / SIGNATURE_NAME).write_bytes(signature)
        for entry in manifest.artifacts:
            if entry.path in damaged:
                continue
            with damaged.noting(entry, strict=strict):
                _unpack(archive, entries[entry.path], entry, folder / entry.path)
            if entry.path in damaged:
                (folder / entry.path).unlink()
    return manifest, damaged


def _unpack(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, entry: ArtifactEntry, target: Path
) -> None:
    digest = hashlib.sha256()
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as file:
        for chunk in _read(archive, info):
            digest.update(chunk)
            file.write(chunk)
    integrity.check_hash(entry, digest.hexdigest())


def _checked_entries(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    entries: dict[str, zipfile.ZipInfo] = {}
    folded: set[str] = set()
    found = archive.infolist()
    if len(found) > integrity.MAX_FILES:
        raise BundleError(f"Bundle holds more than {integrity.MAX_FILES} files.")
    for info in found:
        name = check_path(info.filename)
        mode = info.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise BundleError(f"Bundle holds a link or device, which is refused: '{name}'.")
        if info.flag_bits & 0x1 or info.compress_type not in _METHODS:
            raise BundleError(f"'{name}' is encrypted or compressed in an unknown way.")
        if name.lower() in folded:
            raise BundleError(f"Bundle holds '{name}' twice.")
        folded.add(name.lower())
        entries[name] = info
    return entries


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    """The entry's bytes; never more than its declared size is held or yielded."""
    left = info.file_size
    try:
        with archive.open(info) as source:
            while left > 0:
                chunk = source.read(min(left, integrity.CHUNK))
                if not chunk:
                    break
                left -= len(chunk)
                yield chunk
            # Reading past the end makes zipfile compare the checksum.
            surplus = source.read(1)
    except _DAMAGE as error:
        raise BundleError(f"'{info.filename}' in the zip is damaged: {_told(error)}") from error
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise BundleError(f"'{info.filename}' in the zip is damaged: {_told(error)}") from error
    if left or surplus:
        raise BundleError(
            f"'{info.filename}' expected: {info.file_size} bytes, found: "
            f"{'more' if surplus else info.file_size - left}."
        )


def _told(error: Exception) -> str:
    return str(error)[:_MAX_MESSAGE]  # it may quote any number of the archive's bytes
