"""What a caller may hand in as images, turned into (H, W, 3) uint8 RGB arrays."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from edgevision.errors import DataError

Uint8 = npt.NDArray[np.uint8]


def as_images(source: Any) -> tuple[list[Uint8], bool]:
    """Images of ``source``, and whether it was a single one; see ``Model.__call__``.

    Raises:
        DataError: an unreadable file, or something that is no image.
    """
    if isinstance(source, np.ndarray) and source.ndim == 4:
        return [_image(image) for image in source], False
    if isinstance(source, (list, tuple)):
        return [_image(image) for image in source], False
    return [_image(source)], True


def _image(source: Any) -> Uint8:
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or not source.size:
            raise DataError(
                "An image must be uint8 of shape (height, width, 3), RGB; "
                f"got {source.dtype} of shape {tuple(source.shape)}."
            )
        return source
    if isinstance(source, (str, Path)):
        return read_image(Path(source))
    if isinstance(source, Image.Image):
        return _from_pillow(source)
    raise DataError(
        "An image must be a numpy array, a path or a Pillow image (or a list of these), "
        f"got {type(source).__name__}."
    )


def _from_pillow(picture: Image.Image) -> Uint8:
    upright = ImageOps.exif_transpose(picture)
    if upright.mode == "RGB":
        return np.array(upright)
    # Transparency, palettes and 16 bits follow the rules for files, which live in one place.
    from edgevision.data.images import decode_image

    stream = io.BytesIO()
    try:
        upright.save(stream, "PNG", compress_level=0)
    except OSError as error:
        raise DataError(f"A Pillow image of mode '{upright.mode}' cannot be used.") from error
    return decode_image(stream.getvalue(), name="Pillow image")


def read_image(path: Path) -> Uint8:
    """Decode an image file to (H, W, 3) uint8 RGB, as the training data was decoded.

    Raises:
        DataError: missing, truncated or no image; names the file.
    """
    from edgevision.data.images import decode_image

    if path.is_dir():
        raise DataError(f"{path} is a folder.", hint="Use predict_folder for folders.")
    return decode_image(path)


def image_files(folder: Path) -> list[Path]:
    """Image files under ``folder``, sorted; hidden ones are left out.

    Raises:
        DataError: there is no such folder, or no image in it.
    """
    from edgevision.data.images import SUFFIXES

    if not folder.is_dir():
        raise DataError(f"No folder at {folder}.")
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )
    if not found:
        raise DataError(f"No image file under {folder}; looked for {', '.join(sorted(SUFFIXES))}.")
    return found
