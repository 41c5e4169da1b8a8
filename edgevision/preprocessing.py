"""How an image becomes the network's input: described once, and computed by one implementation.

Training, calibration, verification and the runtime all call this module, with numpy and Pillow
alone, so the tensor on the device is the tensor that the network was trained on.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgevision.errors import DataError, InputError

Uint8 = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
_RESIZES = ("stretch", "crop", "letterbox")


def _is_whole(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


@dataclass(frozen=True)
class Preprocessing:
    """Geometry, colour and normalization of one network input.

    Attributes:
        height, width: size of the network input in pixels.
        color: ``"rgb"`` (3 channels) or ``"gray"`` (1 channel, ITU-R 601 luma as Pillow has it).
        resize: ``"stretch"`` ignores the aspect ratio; ``"crop"`` scales the shorter side to
            ``size / crop_fraction`` and takes the centre; ``"letterbox"`` fits and pads.
        interpolation: Pillow's filter of that name (antialiased when shrinking).
        crop_fraction: see ``resize``; in (0, 1].
        pad_value: 0 to 255, the grey of a letterbox's borders.
        mean, std: per channel, of pixels scaled to 0..1.
    """

    height: int
    width: int
    color: Literal["rgb", "gray"] = "rgb"
    resize: Literal["stretch", "crop", "letterbox"] = "stretch"
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    crop_fraction: float = 1.0
    pad_value: int = 0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(float(v) for v in getattr(self, name)))
        if self.color not in ("rgb", "gray"):
            raise InputError(f"preprocessing: color must be 'rgb' or 'gray', got {self.color!r}")
        if self.resize not in _RESIZES or self.interpolation not in _FILTERS:
            raise InputError(
                f"preprocessing: resize must be one of {_RESIZES} and interpolation one of "
                f"{tuple(_FILTERS)}, got {self.resize!r} and {self.interpolation!r}"
            )
        if not (_is_whole(self.height, 1, 16384) and _is_whole(self.width, 1, 16384)):
            raise InputError(
                "preprocessing: size must be whole numbers from 1 to 16384, "
                f"got {self.height}x{self.width}"
            )
        if not 0 < self.crop_fraction <= 1 or not _is_whole(self.pad_value, 0, 255):
            raise InputError(
                "preprocessing: crop_fraction must be in (0, 1] and pad_value a whole number from "
                f"0 to 255, got {self.crop_fraction} and {self.pad_value}"
            )
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise InputError(
                f"preprocessing: {self.channels} channel(s) want as many means and stds, "
                f"got {len(self.mean)} and {len(self.std)}"
            )
        if not np.isfinite([*self.mean, *self.std]).all() or min(self.std) <= 0:
            raise InputError(
                f"preprocessing: mean must be finite and std above zero, got {self.mean} "
                f"and {self.std}"
            )
        with np.errstate(over="ignore"):
            usable = np.isfinite(self.scale).all() and np.isfinite(self.shift).all()
        if not usable:
            raise InputError(
                f"preprocessing: std {self.std} is too small for float32 with mean {self.mean}"
            )

    @property
    def channels(self) -> int:
        """1 for gray, 3 for rgb."""
        return 1 if self.color == "gray" else 3

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one network input."""
        return (self.channels, self.height, self.width)

    @cached_property
    def scale(self) -> Float32:
        """(C,) float32: what a pixel 0..255 is multiplied by, ``1 / (255 std)``."""
        scale: Float32 = (1.0 / (255.0 * np.asarray(self.std, np.float64))).astype(np.float32)
        return scale

    @cached_property
    def shift(self) -> Float32:
        """(C,) float32: what is added after ``scale``, ``-mean / std``."""
        shift: Float32 = (-np.asarray(self.mean) / np.asarray(self.std)).astype(np.float32)
        return shift

    def geometry_only(self) -> Preprocessing:
        """The same geometry and colour with neutral mean and std: equal when geometry is."""
        neutral = (0.0,) * self.channels, (1.0,) * self.channels
        return replace(self, mean=neutral[0], std=neutral[1])

    def geometry(self, image: npt.NDArray[Any]) -> Uint8:
        """Resize and convert one image.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            (height, width, channels) uint8; ``image`` itself where there is nothing to do.

        Raises:
            DataError: wrong dtype or shape, or an empty image.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise DataError(
                "An image must be uint8 of shape (height, width, 3), RGB; "
                f"got {image.dtype} of shape {tuple(image.shape)}."
            )
        whole = self.resize != "crop" or self.crop_fraction == 1
        if whole and self.color == "rgb" and image.shape[:2] == (self.height, self.width):
            return image
        picture = Image.fromarray(np.ascontiguousarray(image))
        if self.color == "gray":
            picture = picture.convert("L")
        out = np.asarray(self._resized(picture))
        return out[..., None] if self.color == "gray" else out

    def _resized(self, picture: Image.Image) -> Image.Image:
        size = (self.width, self.height)
        method = _FILTERS[self.interpolation]
        if self.resize == "stretch":
            return picture if picture.size == size else picture.resize(size, method)
        if self.resize == "crop":
            # The box is in source pixels, so scaling and cropping round once, not twice.
            factor = min(picture.width / self.width, picture.height / self.height)
            # Rounding can make it a hair larger than the picture, which Pillow refuses.
            wide = min(picture.width, self.width * factor * self.crop_fraction)
            high = min(picture.height, self.height * factor * self.crop_fraction)
            left, top = (picture.width - wide) / 2, (picture.height - high) / 2
            return picture.resize(size, method, box=(left, top, left + wide, top + high))
        factor = min(self.width / picture.width, self.height / picture.height)
        inner = (
            max(1, min(self.width, round(picture.width * factor))),
            max(1, min(self.height, round(picture.height * factor))),
        )
        fitted = picture if picture.size == inner else picture.resize(inner, method)
        fill = self.pad_value if picture.mode == "L" else (self.pad_value,) * 3
        canvas = Image.new(picture.mode, size, fill)
        canvas.paste(fitted, ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2))
        return canvas

    def normalize(self, batch: Uint8) -> Float32:
        """(N, H, W, C) uint8 to (N, C, H, W) float32, contiguous: ``pixel * scale + shift``.

        Multiplied, rounded, added, rounded: the same two float32 operations as
        ``edgevision.data.loader.normalize_torch``, so the results are equal bit for bit.

        Raises:
            DataError: wrong dtype, rank or number of channels.
        """
        if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[3] != self.channels:
            raise DataError(
                f"A batch must be uint8 of shape (N, height, width, {self.channels}); "
                f"got {batch.dtype} of shape {tuple(batch.shape)}."
            )
        out = np.empty((batch.shape[0], batch.shape[3], *batch.shape[1:3]), np.float32)
        np.multiply(batch.transpose(0, 3, 1, 2), self.scale[:, None, None], out=out)
        out += self.shift[:, None, None]
        return out

    def __call__(self, image: npt.NDArray[Any]) -> Float32:
        """(H, W, 3) uint8 RGB to (1, C, height, width) float32."""
        return self.normalize(self.geometry(image)[None])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocessing:
        """Inverse of ``to_dict``.

        Raises:
            InputError: unknown or missing fields, or values out of range.
        """
        known = {f.name for f in fields(cls)}
        unknown = set(values) - known
        if unknown or not {"height", "width"} <= set(values):
            raise InputError(
                f"preprocessing: wants height and width and knows {sorted(known)}, "
                f"got {sorted(values)}"
            )
        try:
            return cls(**values)
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"preprocessing: {error}") from error
