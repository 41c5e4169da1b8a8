"""Opens a bundle: folder or zip, checked from end to end before anything in it is used."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType

from edgevision.bundle import integrity
from edgevision.bundle.archive import extract
from edgevision.bundle.manifest import ArtifactEntry, Manifest, parse_manifest
from edgevision.errors import BundleError


class Bundle:
    """A checked bundle on disk. A context manager: a zip's temporary folder goes with it.

    Attributes:
        source: what was opened.
        folder: where the files lie now.
        manifest: what they are.
        manifest_bytes: what ``manifest`` was read from, as it was then.
        damaged: engine → what is wrong with its file; only where the bundle was opened so.
    """

    def __init__(
        self,
        source: Path,
        folder: Path,
        manifest: Manifest,
        manifest_bytes: bytes,
        damaged: Mapping[str, str],
        temporary: TemporaryDirectory[str] | None = None,
    ) -> None:
        self.source = source
        self.folder = folder
        self.manifest = manifest
        self.manifest_bytes = manifest_bytes
        self.damaged = damaged
        # Cleaned up at the latest when the object goes, also where nobody calls close.
        self._finalizer = weakref.finalize(self, temporary.cleanup) if temporary else None

    def path(self, entry: ArtifactEntry | str) -> Path:
        """The file of an artifact.

        Raises:
            BundleError: the manifest does not name it, or it is a damaged engine.
        """
        name = entry if isinstance(entry, str) else entry.path
        if name in self.damaged:
            raise BundleError(self.damaged[name])
        return self.folder / self.manifest.artifact(name).path

    def by_role(self, role: str) -> list[ArtifactEntry]:
        """Runnable artifacts with that role, in the manifest's order."""
        return [entry for entry in self.manifest.runnable() if entry.role == role]

    def close(self) -> None:
        """Remove the temporary folder of a zip; a second call does nothing."""
        if self._finalizer is not None:
            self._finalizer()

    def __enter__(self) -> Bundle:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_bundle(path: str | Path, *, strict: bool = True) -> Bundle:
    """Open a bundle and check every byte of it.

    The manifest's form is checked first, then the size and hash of every file; nothing is parsed
    before. A zip is unpacked into a temporary folder, which lives as long as the bundle.

    Args:
        path: folder or zip.
        strict: False: an engine that is missing or is not the file that was stored is told in
            ``Bundle.damaged`` and cannot be used, but the rest can.

    Raises:
        BundleError: there is no bundle, or it is damaged, tampered with or of an unknown version;
            the message says expected and actual.
    """
    source = Path(path)
    if source.is_dir():
        data = integrity.read_manifest_bytes(source)
        manifest = parse_manifest(data)
        damaged = integrity.check_folder(source, manifest, strict=strict)
        return Bundle(source, source, manifest, data, damaged)
    if not source.is_file():
        raise BundleError(f"No bundle at {source}.", hint="Give the folder or zip of a bundle.")
    temporary = TemporaryDirectory(prefix="edgevision-bundle-")
    try:
        manifest, damaged = extract(source, Path(temporary.name), strict=strict)
        data = integrity.read_manifest_bytes(Path(temporary.name))
    except BaseException:
        temporary.cleanup()
        raise
    return Bundle(source, Path(temporary.name), manifest, data, damaged, temporary)
