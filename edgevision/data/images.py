"""Image files to arrays, for training and for the device: Pillow and numpy alone."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from edgevision.errors import DataError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})
MOST_PIXELS = 89_478_485
"""Pillow's own line for what may be an attack: a small file that unpacks to gigabytes."""

_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF")
_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"RIFF", b"II*\0", b"MM\0*")
_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError,
            OverflowError, ZeroDivisionError, struct.error, zlib.error)  # fmt: skip


def decode_image(source: Path | str | bytes, *, name: str | None = None) -> npt.NDArray[np.uint8]:
    """The first picture of an image file, upright.

    The EXIF orientation is applied, transparency laid on white, 16-bit gray scaled to 8 bits
    (``round(v / 257)``), every other colour form converted to RGB as Pillow does it.

    Args:
        source: a path, or the file's bytes.
        name: what to call it in messages; the path by default.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        DataError: missing, empty, truncated or damaged, no image, or of more than
            ``MOST_PIXELS`` pixels.
    """
    if isinstance(source, bytes):
        name, content = name or "image", source
    else:
        path = Path(source)
        name, content = name or str(path), _read(path)
    if not content:
        raise DataError(f"{name}: the file is empty (0 bytes).", hint="Replace it or remove it.")
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise _too_large(name, f"{picture.width}x{picture.height}")
            if not picture.width * picture.height:
                raise DataError(f"{name}: the image has no pixels.")
            picture.load()
            return _to_rgb(picture, name)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(name, str(error)) from error
    except UnidentifiedImageError as error:
        if content.startswith(_SIGNATURES):
            raise DataError(
                f"{name}: the image is damaged or truncated ({len(content)} bytes).",
                hint="Replace it or remove it.",
            ) from error
        raise DataError(
            f"{name}: no image of a known format ({', '.join(_FORMATS)}); "
            f"it starts with {content[:8]!r}.",
            hint="Convert it to PNG or JPEG, or remove it.",
        ) from error
    except _DAMAGED as error:
        raise DataError(
            f"{name}: the image is damaged or truncated ({error}).",
            hint="Replace it or remove it.",
        ) from error
    except MemoryError as error:
        raise DataError(f"{name}: the image does not fit into memory.") from error


def _read(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"{path}: expected an image file, found a folder or a device.")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file.") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: the file cannot be read ({error}).") from error


def _too_large(name: str, size: str) -> DataError:
    return DataError(
        f"{name}: more pixels than the {MOST_PIXELS} allowed ({size}).",
        hint="Make it smaller, or remove it.",
    )


def _to_rgb(picture: Image.Image, name: str) -> npt.NDArray[np.uint8]:
    if picture.mode == "F":
        raise DataError(
            f"{name}: the pixels are floating point, whose range is not known.",
            hint="Convert it to 8-bit PNG.",
        )
    upright = _upright(picture)
    if upright.mode.startswith("I"):
        return _from_16_bit(upright, name)
    if upright.mode in _ALPHA or "transparency" in upright.info:
        with_alpha = upright.convert("RGBA")
        white = Image.new("RGBA", with_alpha.size, (255, 255, 255, 255))
        upright = Image.alpha_composite(white, with_alpha)
    # A copy, because the picture's memory is gone when it is closed.
    return np.array(upright if upright.mode == "RGB" else upright.convert("RGB"))


def _upright(picture: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(picture)
    except _DAMAGED:  # unreadable EXIF says nothing of the pixels, which are whole
        return picture


def _from_16_bit(picture: Image.Image, name: str) -> npt.NDArray[np.uint8]:
    values = np.asarray(picture).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise DataError(
            f"{name}: expected 16-bit values from 0 to 65535, "
            f"got {values.min()} to {values.max()}.",
            hint="Convert it to 8-bit PNG.",
        )
    gray = ((values + 128) // 257).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=2)
