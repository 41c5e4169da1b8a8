"""Augmentation of uint8 batches: every image its own draw, the whole batch in few operations.

The v2 transforms of torchvision draw once for a whole batch, and their functions take one angle or
factor a call, so here each is computed for the batch at once with one value an image: flip, crop
and shift as one gather of pixels, rotation as one ``grid_sample``, colour by broadcasting. The
results are those of ``torchvision.transforms.v2.functional`` called image by image: equal where
pixels only move, within one or two levels of 255 where they are computed.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor
from torch.nn import functional
from typing_extensions import Self

from edgevision.errors import UsageError
from edgevision.preprocessing import Preprocessing

Unit = Annotated[float, Field(ge=0, le=1)]


class AugmentConfig(BaseModel):
    """What is done to training images; everything is off unless it is named.

    Attributes:
        flip: left-right, ``"random"`` for half of the images of every epoch, ``"alternating"``
            for a random half in the first epoch and the other half in the next, in turns (Jordan,
            "94% on CIFAR-10 in 3.29 seconds on a single GPU", 2024, section 3.6).
        crop_padding: pixels added on every side before a random crop to the old size.
        shift: largest move in each direction, as a fraction of the size.
        padding: what lies beyond the border for crop and shift.
        rotation: largest angle in degrees, either way; beyond the border is black.
        brightness, contrast, saturation: factors are drawn from ``1 - x`` to ``1 + x``.
        hue: drawn from ``-x`` to ``x`` of the colour circle.
        erasing: probability that a rectangle is replaced by the mean colour.
        erasing_area: smallest and largest area of it, as a fraction of the image.
        mixup, cutmix: alpha of the Beta distribution of the share, 0 for off; where both are on,
            each batch has one of them by a coin. Targets become soft.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    flip: Literal["none", "random", "alternating"] = "none"
    crop_padding: Annotated[int, Field(ge=0, le=512)] = 0
    shift: Unit = 0.0
    padding: Literal["reflect", "edge", "black"] = "reflect"
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    brightness: Unit = 0.0
    contrast: Unit = 0.0
    saturation: Unit = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    erasing: Unit = 0.0
    erasing_area: tuple[Unit, Unit] = (0.02, 0.33)
    mixup: Annotated[float, Field(ge=0, le=100)] = 0.0
    cutmix: Annotated[float, Field(ge=0, le=100)] = 0.0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        low, high = self.erasing_area
        if not 0 < low <= high:
            raise ValueError(f"erasing_area must rise from above 0, got {low} to {high}")
        return self


def augment(
    batch: Tensor,
    config: AugmentConfig,
    preprocessing: Preprocessing,
    random: np.random.Generator,
    *,
    indices: np.ndarray[tuple[int], np.dtype[np.int64]],
    seed: int,
    epoch: int,
) -> Tensor:
    """Augment one batch; the same arguments give the same result.

    Args:
        batch: (N, H, W, C) uint8.
        random: what everything but the alternating flip is drawn from.
        indices: (N,) the images' places in the data set, for the alternating flip.
        seed, epoch: for the alternating flip.

    Returns:
        (N, H, W, C) uint8.
    """
    flips = _flips(config, len(batch), random, indices, seed, epoch)
    batch = _moved(batch, config, random, flips)
    if config.rotation:
        angles = random.uniform(-config.rotation, config.rotation, len(batch))
        batch = rotate(batch, torch.from_numpy(angles))
    if config.brightness or config.contrast or config.saturation or config.hue:
        batch = _recoloured(batch, config, random)
    if config.erasing:
        batch = _erased(batch, config, preprocessing, random)
    return batch


def _flips(
    config: AugmentConfig,
    count: int,
    random: np.random.Generator,
    indices: np.ndarray[tuple[int], np.dtype[np.int64]],
    seed: int,
    epoch: int,
) -> Tensor | None:
    if config.flip == "none":
        return None
    if config.flip == "random":
        return torch.from_numpy(random.random(count) < 0.5)
    # A hash of (seed, index) instead of a table: the same on every process, at no cost.
    mixed = indices.astype(np.uint64) + np.uint64((seed * 0x9E3779B97F4A7C15) % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    first = ((mixed >> np.uint64(33)) & np.uint64(1)).astype(bool)
    return torch.from_numpy(first ^ bool(epoch % 2))


def _moved(
    batch: Tensor, config: AugmentConfig, random: np.random.Generator, flips: Tensor | None
) -> Tensor:
    """Flip, crop and shift as one gather of whole pixels."""
    count, height, width, channels = batch.shape
    reach = [config.crop_padding + round(config.shift * size) for size in (height, width)]
    if flips is None and not any(reach):
        return batch
    rows, columns = (
        torch.arange(size)[None] + torch.from_numpy(random.integers(-far, far + 1, count))[:, None]
        for size, far in zip((height, width), reach, strict=True)
    )
    inside = None
    if config.padding == "black":
        inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[
            :, None, :
        ]
    fold = _mirrored if config.padding == "reflect" else _clamped
    rows, columns = fold(rows, height), fold(columns, width)
    if flips is not None:
        # After the crop: the window is taken first, then turned round.
        columns = torch.where(flips[:, None], columns.flip(1), columns)
        if inside is not None:
            inside = torch.where(flips[:, None, None], inside.flip(2), inside)
    first = torch.arange(count)[:, None, None] * height
    places = ((first + rows[:, :, None]) * width + columns[:, None, :]).view(-1)
    moved = batch.reshape(-1, channels).index_select(0, places)
    moved = moved.view(count, height, width, channels)
    return moved if inside is None else moved * inside[..., None]


def _mirrored(places: Tensor, size: int) -> Tensor:
    """Places beyond the border folded back, without repeating the border pixel."""
    if size == 1:
        return torch.zeros_like(places)
    period = 2 * (size - 1)
    folded = places.remainder(period)
    return torch.where(folded >= size, period - folded, folded)


def _clamped(places: Tensor, size: int) -> Tensor:
    return places.clamp(0, size - 1)


def rotate(batch: Tensor, degrees: Tensor) -> Tensor:
    """Turn each image about its centre, counter-clockwise, bilinear, black beyond the border.

    Args:
        batch: (N, H, W, C) uint8.
        degrees: (N,).

    Returns:
        (N, H, W, C) uint8.
    """
    height, width = batch.shape[1:3]
    angles = degrees.to(torch.float32) * (math.pi / 180)
    cos, sin = angles.cos(), angles.sin()
    zero = torch.zeros_like(cos)
    # grid_sample counts both axes from -1 to 1, hence the aspect ratio off the diagonal.
    theta = torch.stack(
        [
            torch.stack([cos, -sin * (height / width), zero], 1),
            torch.stack([sin * (width / height), cos, zero], 1),
        ],
        1,
    )
    images = batch.permute(0, 3, 1, 2).to(torch.float32)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    turned = functional.grid_sample(images, grid, mode="bilinear", align_corners=False)
    return turned.round_().to(torch.uint8).permute(0, 2, 3, 1)


def _recoloured(batch: Tensor, config: AugmentConfig, random: np.random.Generator) -> Tensor:
    """Brightness, contrast, saturation and hue, in this order, as v2's functions define them."""

    def factors(reach: float) -> Tensor:
        drawn = random.uniform(1 - reach, 1 + reach, len(batch)).astype(np.float32)
        return torch.from_numpy(drawn)[:, None, None, None]

    if config.brightness:
        batch = _blend(batch, torch.zeros(()), factors(config.brightness))
    if config.contrast:
        mean = _luma(batch).mean((1, 2, 3), keepdim=True)
        batch = _blend(batch, mean, factors(config.contrast))
    if batch.shape[3] == 1:  # gray has neither saturation nor hue
        return batch
    if config.saturation:
        batch = _blend(batch, _luma(batch), factors(config.saturation))
    if config.hue:
        turns = random.uniform(-config.hue, config.hue, len(batch)).astype(np.float32)
        batch = _turned(batch, torch.from_numpy(turns)[:, None, None])
    return batch


def _turned(batch: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of (N, H, W, 3) uint8 by (N, 1, 1) parts of the circle, through HSV."""
    pixels = batch.to(torch.float32)
    red, green, blue = pixels.unbind(3)
    value, least = pixels.amax(3), pixels.amin(3)
    chroma = value - least
    span = chroma.clamp(min=1)  # where it is 0 the hue means nothing and changes nothing
    sixths = torch.where(
        value == red,
        (green - blue) / span,
        torch.where(value == green, 2 + (blue - red) / span, 4 + (red - green) / span),
    )
    sixths = sixths + 6 * turns
    # Back by the formula without cases: f(n) = V - C max(0, min(k, 4 - k, 1)), k = n + H/60 mod 6.
    parts = []
    for offset in (5, 3, 1):
        k = (sixths + offset).remainder(6)
        parts.append(value - chroma * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(parts, 3).round_().to(torch.uint8)


def _luma(batch: Tensor) -> Tensor:
    """(N, H, W, 1) float32 whole numbers, ITU-R 601 as torchvision has it."""
    if batch.shape[3] == 1:
        return batch.to(torch.float32)
    weights = torch.tensor([0.2989, 0.587, 0.114])
    return (batch.to(torch.float32) * weights).sum(3, keepdim=True).floor()


def _blend(batch: Tensor, other: Tensor, share: Tensor) -> Tensor:
    mixed = batch.to(torch.float32).mul_(share).add_((1 - share) * other)
    return mixed.clamp_(0, 255).to(torch.uint8)


def _erased(
    batch: Tensor,
    config: AugmentConfig,
    preprocessing: Preprocessing,
    random: np.random.Generator,
) -> Tensor:
    """Rectangles of the mean colour (Zhong et al., "Random Erasing Data Augmentation", 2017)."""
    count, height, width, _ = batch.shape
    chosen = random.random(count) < config.erasing
    area = random.uniform(*config.erasing_area, count) * height * width
    ratio = np.exp(random.uniform(math.log(0.3), math.log(1 / 0.3), count))
    high = np.clip(np.round(np.sqrt(area * ratio)), 1, height)
    wide = np.clip(np.round(np.sqrt(area / ratio)), 1, width)
    top = np.floor(random.random(count) * (height - high + 1))
    left = np.floor(random.random(count) * (width - wide + 1))
    rows, columns = np.arange(height)[None], np.arange(width)[None]
    in_rows = (rows >= top[:, None]) & (rows < (top + high)[:, None]) & chosen[:, None]
    in_columns = (columns >= left[:, None]) & (columns < (left + wide)[:, None])
    mask = torch.from_numpy(in_rows[:, :, None, None] & in_columns[:, None, :, None])
    fill = torch.tensor([round(255 * mean) for mean in preprocessing.mean], dtype=torch.uint8)
    return torch.where(mask, fill, batch)


def mix(
    images: Tensor,
    targets: Tensor,
    config: AugmentConfig,
    num_classes: int,
    random: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Mixup or cutmix of a batch with a shuffled copy of itself.

    Args:
        images: (N, C, H, W) float32.
        targets: (N,) class numbers.

    Returns:
        Images of the same shape and soft targets (N, num_classes) float32 whose rows sum to 1.

    Raises:
        UsageError: the task's targets are not one class an image.
    """
    if targets.ndim != 1 or targets.is_floating_point():
        raise UsageError(
            "mixup and cutmix need one class number an image, "
            f"got targets of shape {tuple(targets.shape)} and {targets.dtype}.",
            hint="Set mixup and cutmix to 0 for this task.",
        )
    soft = functional.one_hot(targets, num_classes).to(torch.float32)
    use_mixup = bool(config.mixup) and (not config.cutmix or random.random() < 0.5)
    alpha = config.mixup if use_mixup else config.cutmix
    share = float(random.beta(alpha, alpha))
    other = torch.from_numpy(random.permutation(len(images)))
    if use_mixup:
        images = images * share + images[other] * (1 - share)
    else:
        height, width = images.shape[2:]
        side = math.sqrt(1 - share)
        centre_y, centre_x = int(random.integers(height)), int(random.integers(width))
        half_y, half_x = round(side * height / 2), round(side * width / 2)
        top, bottom = max(0, centre_y - half_y), min(height, centre_y + half_y)
        left, right = max(0, centre_x - half_x), min(width, centre_x + half_x)
        images = images.clone()
        images[:, :, top:bottom, left:right] = images[other, :, top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (height * width)
    return images, soft * share + soft[other] * (1 - share)
