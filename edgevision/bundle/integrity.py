"""Hashes, sizes and file kinds: checked before anything in a bundle is parsed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgevision.bundle.manifest import MANIFEST_NAME, SIGNATURE_NAME, ArtifactEntry, Manifest
from edgevision.errors import BundleError
from edgevision.files import sha256_file

MAX_MANIFEST = 16 << 20
MAX_SIGNATURE = 1 << 20
MAX_TOTAL = 16 << 30
MAX_FILES = 10_000
CHUNK = 1 << 20

# Engines are added one by one on the device; a build that was killed may leave a file here.
ENGINES = "engines"


class Damaged(dict[str, str]):
    """Engine → what is wrong with it, where a damaged engine does not make the bundle unusable.

    Other files of the bundle can do its work; nothing can do that of any other kind of file.
    """

    @contextmanager
    def noting(self, entry: ArtifactEntry, *, strict: bool) -> Iterator[None]:
        """Take up what is raised about ``entry`` in the block; raised where it is no engine."""
        try:
            yield
        except BundleError as error:
            if strict or entry.kind != "engine":
                raise
            self[entry.path] = error.message


def check_declared(
    manifest: Manifest, sizes: dict[str, int], *, total: int = MAX_TOTAL, strict: bool = True
) -> Damaged:
    """Compare the files there are with those that the manifest names.

    Args:
        manifest: parsed, not yet trusted.
        sizes: path → size in bytes of every file beside the manifest.
        total: limit of the sum of sizes.
        strict: False: an engine may be missing or of another size, and is then in the result.

    Raises:
        BundleError: a file is missing, not named in the manifest, or of another size.
    """
    damaged = Damaged()
    for entry in manifest.artifacts:
        with damaged.noting(entry, strict=strict):
            _check_size(entry, sizes)
    known = {entry.path for entry in manifest.artifacts}
    stray = sorted(path for path in sizes if path not in known)
    if stray:
        raise BundleError(
            f"Bundle holds a file that its manifest does not name: '{stray[0]}'.",
            hint="Move it out of the bundle's folder.",
        )
    if sum(sizes.values()) > total:
        raise BundleError(f"Bundle is larger than the limit of {total} bytes.")
    return damaged


def _check_size(entry: ArtifactEntry, sizes: dict[str, int]) -> None:
    if entry.path not in sizes:
        raise BundleError(f"Bundle lacks '{entry.path}', which its manifest names.")
    if sizes[entry.path] != entry.size:
        raise BundleError(
            f"'{entry.path}' expected: {entry.size} bytes, found: {sizes[entry.path]}.",
            hint="The file was cut short or changed. Copy the bundle again.",
        )


def check_hash(entry: ArtifactEntry, digest: str) -> None:
    """Compare the digest of the bytes found with the manifest's.

    Raises:
        BundleError: they differ.
    """
    if digest != entry.sha256:
        raise BundleError(
            f"'{entry.path}' expected: sha256 {entry.sha256}, found: {digest}.",
            hint="The file was damaged or changed. Copy the bundle again.",
        )


def read_manifest_bytes(folder: Path) -> bytes:
    """The bytes of ``manifest.json``.

    Raises:
        BundleError: it is missing, a link, no plain file, or too large.
    """
    path = folder / MANIFEST_NAME
    try:
        info = path.lstat()
    except FileNotFoundError:
        raise BundleError(
            f"No {MANIFEST_NAME} in {folder}.", hint="Give the folder or zip of a bundle."
        ) from None
    if not stat.S_ISREG(info.st_mode):
        raise BundleError(f"{MANIFEST_NAME} must be a plain file, not a link or a device.")
    if info.st_size > MAX_MANIFEST:
        raise BundleError(
            f"{MANIFEST_NAME} expected: at most {MAX_MANIFEST} bytes, found: {info.st_size}."
        )
    return path.read_bytes()


def folder_sizes(folder: Path, manifest: Manifest) -> dict[str, int]:
    """Path → size of every file under ``folder`` beside the manifest and its signature.

    Files under ``engines/`` that the manifest does not name are left out: they are never read.

    Raises:
        BundleError: there is a link or something that is neither file nor folder, or far too
            many files.
    """
    known = {entry.path for entry in manifest.artifacts}
    sizes: dict[str, int] = {}
    for count, (path, size) in enumerate(_walk(folder, "")):
        if count > MAX_FILES:
            raise BundleError(f"Bundle holds more than {MAX_FILES} files.")
        if path == SIGNATURE_NAME:
            check_signature_size(size)
        elif path != MANIFEST_NAME and (path in known or not path.startswith(f"{ENGINES}/")):
            sizes[path] = size
    return sizes


def check_signature_size(size: int) -> None:
    """Refuse a signature that cannot be one.

    Raises:
        BundleError: it is larger than any signature.
    """
    if size > MAX_SIGNATURE:
        raise BundleError(
            f"{SIGNATURE_NAME} expected: at most {MAX_SIGNATURE} bytes, found: {size}."
        )


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, int]]:
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        name = prefix + entry.name
        if entry.is_symlink():
            raise BundleError(f"Bundle holds a link, which is refused: '{name}'.")
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), f"{name}/")
        elif entry.is_file(follow_symlinks=False):
            yield name, entry.stat(follow_symlinks=False).st_size
        else:
            raise BundleError(f"Bundle holds something that is no plain file: '{name}'.")


def check_folder(folder: Path, manifest: Manifest, *, strict: bool = True) -> Damaged:
    """Check every file of an unpacked bundle; with ``strict`` False, engines may be damaged.

    Raises:
        BundleError: see ``check_declared``, ``check_hash`` and ``folder_sizes``.
    """
    damaged = check_declared(manifest, folder_sizes(folder, manifest), strict=strict)
    for entry in manifest.artifacts:
        if entry.path not in damaged:
            with damaged.noting(entry, strict=strict):
                check_hash(entry, sha256_file(folder / entry.path))
    return damaged
