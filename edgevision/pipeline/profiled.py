"""The network that ``profile`` looks at, with or without data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgevision.data.base import some_images
from edgevision.errors import UsageError
from edgevision.pipeline.job import require_labels, resolve_input
from edgevision.pipeline.timing import CALIBRATION_IMAGES

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

_CLASSES, _OWN_SIZE, _USUAL_SIZE = 1000, 32, 224


def network_of(
    model: str, data: str | None, size: int | None
) -> tuple[torch.nn.Module, tuple[int, int, int], int, npt.NDArray[np.float32]]:
    """The network, (C, H, W) of its input, its classes, and images to calibrate on.

    Arguments and errors as for ``profile``.
    """
    from edgevision.data import load_data
    from edgevision.models import create, trust_factory
    from edgevision.models.checkpoint import load_checkpoint

    trust_factory(model)
    if Path(model).is_dir():
        module, card = load_checkpoint(Path(model))
        image = card.as_preprocessing()
        shape, classes = image.input_shape, len(card.labels)
        if size is not None and (size, size) != shape[1:]:
            raise UsageError(
                f"The checkpoint {model} takes {shape[1]}x{shape[2]} pixels, got size {size}.",
                hint="Leave the size out.",
            )
        if data is not None:
            splits = load_data(data, image_size=(image.height, image.width))
            require_labels(model, card, splits)
            return module, shape, classes, some_images(splits.train, image, CALIBRATION_IMAGES)
    elif data is None:
        side = size or _own_size(model)
        shape, classes = (3, side, side), _CLASSES
        module = create(model, num_classes=classes, in_channels=3, image_size=(side, side))
    else:
        return _network_on(model, data, size)
    random = np.random.default_rng(0)
    images = random.normal(size=(CALIBRATION_IMAGES, *shape)).astype(np.float32)
    return module, shape, classes, images


def _network_on(
    model: str, data: str, size: int | None
) -> tuple[torch.nn.Module, tuple[int, int, int], int, npt.NDArray[np.float32]]:
    from edgevision.data import load_data
    from edgevision.models import create
    from edgevision.recipe import InputSection

    section = InputSection() if size is None else InputSection(size=(size, size))
    splits = load_data(data, image_size=section.size)
    image = resolve_input(splits.preprocessing, section)
    module = create(
        model,
        num_classes=len(splits.labels),
        in_channels=image.channels,
        image_size=(image.height, image.width),
    )
    images = some_images(splits.train, image, CALIBRATION_IMAGES)
    return module, image.input_shape, len(splits.labels), images


def _own_size(model: str) -> int:
    """Pixels that the network was made for, as far as its library says."""
    from edgevision.lazy import require
    from edgevision.models.families import FAMILIES

    if model in FAMILIES:
        return _OWN_SIZE
    timm, name = require("timm"), model.removeprefix("timm:")
    known = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    return int(known.input_size[-1]) if known is not None else _USUAL_SIZE
