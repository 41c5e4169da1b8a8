"""Augmentation: equal to torchvision's v2 functions image by image, and reproducible."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as v2

from edgevision.data.augment import (
    AugmentConfig,
    _blend,
    _luma,
    _moved,
    _turned,
    augment,
    mix,
    rotate,
)
from edgevision.errors import UsageError
from edgevision.preprocessing import Preprocessing

RGB = Preprocessing(height=24, width=32)


@pytest.fixture
def batch() -> torch.Tensor:
    # Smooth, because interpolation of noise hides errors of geometry in large differences.
    ramps = torch.arange(24.0)[:, None, None] * 4 + torch.arange(32.0)[None, :, None] * 3
    waves = 60 * torch.sin(torch.arange(8.0)[:, None, None, None] + ramps / 20)
    colours = torch.tensor([30.0, 60.0, 90.0])
    return (waves + colours + 60).clamp(0, 255).to(torch.uint8)


def run(
    batch: torch.Tensor, config: AugmentConfig, *, seed: int = 0, epoch: int = 0
) -> torch.Tensor:
    return augment(
        batch,
        config,
        RGB,
        np.random.default_rng([seed, epoch]),
        indices=np.arange(len(batch)),
        seed=seed,
        epoch=epoch,
    )


def chw(image: torch.Tensor) -> torch.Tensor:
    return image.permute(2, 0, 1)


def test_no_option_changes_nothing(batch: torch.Tensor) -> None:
    assert torch.equal(run(batch, AugmentConfig()), batch)


@pytest.mark.parametrize(
    ("padding", "mode"), [("reflect", "reflect"), ("edge", "edge"), ("black", "constant")]
)
def test_crop_and_flip_are_those_of_torchvision(
    batch: torch.Tensor, padding: str, mode: str
) -> None:
    config = AugmentConfig(crop_padding=5, padding=padding)
    flips = torch.tensor([True, False] * 4)
    found = _moved(batch, config, np.random.default_rng(7), flips)
    same = np.random.default_rng(7)
    down, right = (same.integers(-5, 6, len(batch)) for _ in range(2))
    assert len(set(zip(down, right, strict=True))) > 4
    for image, moved, flip, y, x in zip(batch, found, flips, down, right, strict=True):
        padded = v2.pad(chw(image), [5, 5, 5, 5], padding_mode=mode)
        expected = v2.crop(padded, 5 + int(y), 5 + int(x), 24, 32)
        if flip:
            expected = v2.horizontal_flip(expected)
        assert torch.equal(chw(moved), expected)


def test_reflection_farther_than_the_image_is_wide() -> None:
    tiny = torch.arange(3, dtype=torch.uint8).view(1, 1, 3, 1)
    config = AugmentConfig(crop_padding=10)
    seen = {
        tuple(_moved(tiny, config, np.random.default_rng(s), None).flatten().tolist())
        for s in range(60)
    }
    assert seen == {(0, 1, 2), (1, 2, 1), (2, 1, 0), (1, 0, 1)}


def test_shift_is_a_fraction_of_each_side(batch: torch.Tensor) -> None:
    white = torch.full((400, 24, 32, 3), 255, dtype=torch.uint8)
    moved = run(white, AugmentConfig(shift=0.25, padding="black"))
    columns = (moved[..., 0].amax(1) == 0).sum(1)
    rows = (moved[..., 0].amax(2) == 0).sum(1)
    assert columns.max() == 8
    assert rows.max() == 6
    assert columns.min() == rows.min() == 0


def test_rotation_is_that_of_torchvision(batch: torch.Tensor) -> None:
    degrees = torch.tensor([0.0, 1, -10, 30, 45, 90, 179, -90])
    found = rotate(batch, degrees)
    assert torch.equal(found[0], batch[0])
    for image, turned, angle in zip(batch, found, degrees, strict=True):
        expected = v2.rotate(chw(image), float(angle), InterpolationMode.BILINEAR)
        # Both round a bilinear mean of four pixels; the positions differ by float32 rounding.
        difference = (chw(turned).int() - expected.int()).abs()
        assert difference.max() <= 2


@pytest.mark.parametrize("factor", [0.3, 1.0, 1.7])
def test_colour_is_that_of_torchvision(batch: torch.Tensor, factor: float) -> None:
    share = torch.tensor(factor)
    mean = _luma(batch).mean((1, 2, 3), keepdim=True)
    cases = (
        (_blend(batch, torch.zeros(()), share), v2.adjust_brightness),
        (_blend(batch, mean, share), v2.adjust_contrast),
        (_blend(batch, _luma(batch), share), v2.adjust_saturation),
    )
    for found, function in cases:
        for image, ours in zip(batch, found, strict=True):
            expected = function(chw(image), factor)
            assert (chw(ours).int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize("turn", [-0.5, -0.2, 0.0, 0.1, 0.5])
def test_hue_is_that_of_torchvision(turn: float) -> None:
    random = torch.Generator().manual_seed(0)
    batch = torch.randint(0, 256, (4, 16, 16, 3), generator=random, dtype=torch.uint8)
    batch[0, 0, 0] = 0
    batch[0, 0, 1] = 255
    found = _turned(batch, torch.full((4, 1, 1), turn))
    for image, ours in zip(batch, found, strict=True):
        expected = v2.adjust_hue(chw(image), turn)
        assert (chw(ours).int() - expected.int()).abs().max() <= 1


def test_gray_images_have_neither_saturation_nor_hue() -> None:
    gray = torch.randint(0, 256, (4, 8, 8, 1), dtype=torch.uint8)
    assert torch.equal(run(gray, AugmentConfig(saturation=0.9, hue=0.5)), gray)
    assert run(gray, AugmentConfig(contrast=0.9, rotation=30)).shape == gray.shape


def test_alternating_flip_takes_each_side_every_second_epoch(batch: torch.Tensor) -> None:
    many = torch.arange(1000)[:, None, None, None] % 251 * torch.ones(1, 1, 2, 1)
    many[:, :, 1] += 1
    many = many.to(torch.uint8)
    config = AugmentConfig(flip="alternating")
    epochs = [run(many, config, seed=3, epoch=epoch) for epoch in range(3)]
    flipped = (epochs[0] != many).flatten(1).any(1)
    assert 400 < int(flipped.sum()) < 600
    assert torch.equal(epochs[1], epochs[0].flip(2))
    assert torch.equal(epochs[2], epochs[0])
    assert not torch.equal(run(many, config, seed=4), epochs[0])


def test_random_flip_draws_anew_each_epoch(batch: torch.Tensor) -> None:
    many = batch.repeat(50, 1, 1, 1)
    first, second = (run(many, AugmentConfig(flip="random"), epoch=e) for e in (0, 1))
    flipped = (first != many).flatten(1).any(1).float().mean()
    assert 0.4 < flipped < 0.6
    assert not torch.equal(first, second)


def test_erasing_lays_one_rectangle_of_the_mean(batch: torch.Tensor) -> None:
    white = torch.full((300, 24, 32, 3), 255, dtype=torch.uint8)
    preprocessing = Preprocessing(height=24, width=32, mean=(0.5, 0.4, 0.3))
    config = AugmentConfig(erasing=0.5, erasing_area=(0.1, 0.2))
    random = np.random.default_rng(0)
    erased = augment(white, config, preprocessing, random, indices=np.arange(300), seed=0, epoch=0)
    hole = (erased != 255).any(3)
    areas = hole.flatten(1).float().mean(1)
    touched = areas > 0
    assert 0.4 < touched.float().mean() < 0.6
    assert areas[touched].min() > 0.05
    assert areas[touched].max() < 0.3
    for image, mask in zip(erased[touched], hole[touched], strict=True):
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        inside = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].reshape(-1, 3)
        assert (inside == torch.tensor([128, 102, 76], dtype=torch.uint8)).all()


@pytest.mark.parametrize("config", [AugmentConfig(mixup=1.0), AugmentConfig(cutmix=1.0)])
def test_mixed_targets_tell_the_share_of_pixels(config: AugmentConfig) -> None:
    # Image i is all i, so its pixels say how much of which image it holds.
    count = 6
    images = torch.arange(float(count))[:, None, None, None].expand(count, 1, 20, 20)
    targets = torch.arange(count)
    for seed in range(20):
        mixed, soft = mix(images, targets, config, count, np.random.default_rng(seed))
        assert torch.allclose(soft.sum(1), torch.ones(count))
        means = mixed.mean((1, 2, 3))
        assert torch.allclose(means, (soft * torch.arange(float(count))).sum(1), atol=1e-5)
    assert torch.equal(images[:, 0, 0, 0], torch.arange(float(count)))  # the input is left alone


def test_both_mixes_take_turns() -> None:
    images = torch.arange(8.0)[:, None, None, None].expand(8, 1, 8, 8)
    config = AugmentConfig(mixup=1.0, cutmix=1.0)
    uniform = [
        bool((mixed.flatten(1).amax(1) == mixed.flatten(1).amin(1)).all())
        for mixed, _ in (
            mix(images, torch.arange(8), config, 8, np.random.default_rng(s)) for s in range(60)
        )
    ]
    assert 10 < sum(uniform) < 50  # mixup leaves an even image even, cutmix hardly ever


def test_mixing_refuses_targets_that_are_no_classes() -> None:
    with pytest.raises(UsageError, match="one class number an image"):
        mix(torch.zeros(2, 3, 4, 4), torch.zeros(2, 4), AugmentConfig(mixup=1), 3,
            np.random.default_rng(0))  # fmt: skip


@pytest.mark.parametrize(
    "values",
    [
        {"flip": "vertical"},
        {"crop_padding": -1},
        {"hue": 0.6},
        {"rotation": float("nan")},
        {"erasing_area": (0.5, 0.1)},
        {"crop": 4},
    ],
)
def test_refuses_values_out_of_range(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        AugmentConfig.model_validate(values)


def test_the_same_seed_gives_the_same_batch(batch: torch.Tensor) -> None:
    config = AugmentConfig(
        flip="random", crop_padding=4, rotation=10, brightness=0.2, contrast=0.2,
        saturation=0.2, hue=0.1, erasing=0.5, shift=0.1,
    )  # fmt: skip
    assert torch.equal(run(batch, config, seed=1), run(batch, config, seed=1))
    assert not torch.equal(run(batch, config, seed=1), run(batch, config, seed=2))
