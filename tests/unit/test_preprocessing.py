"""Geometry at odd sizes, colour, and the description's own checks."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from edgevision.errors import DataError, InputError
from edgevision.preprocessing import Preprocessing

sides = st.one_of(st.integers(1, 40), st.integers(1, 900))
inputs = st.builds(
    Preprocessing,
    height=st.integers(1, 64),
    width=st.integers(1, 64),
    resize=st.sampled_from(["stretch", "crop", "letterbox"]),
    interpolation=st.sampled_from(["nearest", "bilinear", "bicubic"]),
    crop_fraction=st.one_of(st.just(1.0), st.floats(1e-3, 1.0)),
    pad_value=st.integers(0, 255),
)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng([height, width]).integers(0, 256, (height, width, 3), np.uint8)


@settings(deadline=None, max_examples=400)
@given(inputs, sides, sides)
def test_every_size_becomes_the_input_size(p: Preprocessing, height: int, width: int) -> None:
    out = p.geometry(noise(height, width))
    assert out.shape == (p.height, p.width, 3)
    assert out.dtype == np.uint8


@settings(deadline=None, max_examples=200)
@given(inputs, sides, sides, st.integers(0, 255))
def test_an_even_image_stays_even(p: Preprocessing, height: int, width: int, level: int) -> None:
    p = replace(p, pad_value=level)
    out = p.geometry(np.full((height, width, 3), level, np.uint8))
    assert (out == level).all()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5000), (5000, 1), (21, 38), (3, 2)])
@pytest.mark.parametrize("resize", ["stretch", "crop", "letterbox"])
def test_extreme_aspects(height: int, width: int, resize: Any) -> None:
    p = Preprocessing(height=19, width=34, resize=resize)
    assert p.geometry(noise(height, width)).shape == (19, 34, 3)


def test_an_image_of_the_right_size_is_left_alone() -> None:
    image = noise(8, 9)
    for resize in ("stretch", "crop", "letterbox"):
        p = Preprocessing(height=8, width=9, resize=resize)  # type: ignore[arg-type]
        assert np.array_equal(p.geometry(image), image)


def test_crop_takes_the_centre() -> None:
    image = noise(40, 60)
    p = Preprocessing(height=40, width=40, resize="crop")
    assert np.array_equal(p.geometry(image), image[:, 10:50])
    half = Preprocessing(height=20, width=20, resize="crop", crop_fraction=0.5)
    assert np.array_equal(half.geometry(image), image[10:30, 20:40])


def test_crop_is_scaling_then_cutting_within_rounding() -> None:
    ramp = np.add.outer(np.arange(120.0), np.arange(200.0))[..., None].repeat(3, 2) * 0.75
    image = ramp.astype(np.uint8)
    p = Preprocessing(height=28, width=28, resize="crop", crop_fraction=0.875)
    scaled = Image.fromarray(image).resize((round(200 * 32 / 120), 32), Image.Resampling.BILINEAR)
    left = (scaled.width - 28) / 2
    cut = np.asarray(scaled)[2:30, int(left) : int(left) + 28].astype(int)
    # The box is placed in fractions of a pixel, the reference in whole ones: half a step, 3 levels.
    assert np.abs(p.geometry(image).astype(int) - cut).max() <= 3


def test_letterbox_keeps_the_aspect_and_pads_the_rest() -> None:
    image = np.full((10, 20, 3), 200, np.uint8)
    out = Preprocessing(height=32, width=32, resize="letterbox", pad_value=114).geometry(image)
    assert (out[8:24] == 200).all()
    assert (out[:8] == 114).all()
    assert (out[24:] == 114).all()


def test_letterbox_of_gray_pads_gray() -> None:
    p = Preprocessing(
        height=4, width=8, color="gray", resize="letterbox", pad_value=7, mean=(0,), std=(1,)
    )
    out = p.geometry(np.full((4, 4, 3), 90, np.uint8))
    assert out.shape == (4, 8, 1)
    assert out[0, :, 0].tolist() == [7, 7, 90, 90, 90, 90, 7, 7]


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255))
def test_gray_is_the_luma_of_pillow(red: int, green: int, blue: int) -> None:
    p = Preprocessing(height=1, width=1, color="gray", mean=(0,), std=(1,))
    out = p.geometry(np.array([[[red, green, blue]]], np.uint8))
    # ITU-R 601-2 in 16-bit fixed point: libImaging/Convert.c, macro L24.
    assert out[0, 0, 0] == (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


@settings(deadline=None)
@given(
    hnp.arrays(np.uint8, (5, 6, 7, 3)),
    st.lists(st.integers(0, 4), min_size=1, max_size=8),
)
def test_an_image_does_not_depend_on_its_batch(batch: np.ndarray, order: list[int]) -> None:
    p = Preprocessing(height=6, width=7, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    whole = p.normalize(batch)
    assert np.array_equal(p.normalize(batch[order]), whole[order])
    for index in order:
        assert np.array_equal(p(batch[index])[0], whole[index])


@given(
    hnp.arrays(np.uint8, (2, 3, 4, 3)),
    st.tuples(*[st.floats(0, 1)] * 3),
    st.tuples(*[st.floats(0.05, 1)] * 3),
)
def test_normalization_is_the_formula(
    batch: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    out = Preprocessing(height=3, width=4, mean=mean, std=std).normalize(batch)
    assert out.dtype == np.float32
    assert out.flags.c_contiguous
    exact = ((batch / 255 - mean) / std).transpose(0, 3, 1, 2)
    # Rounded four times at magnitudes up to (1 + mean) / std.
    bound = 4 * np.finfo(np.float32).eps * 2 / min(std)
    assert np.abs(out - exact).max() <= bound


@given(inputs)
def test_the_description_survives_json(p: Preprocessing) -> None:
    assert Preprocessing.from_dict(json.loads(json.dumps(p.to_dict()))) == p


def test_geometry_only_forgets_normalization_alone() -> None:
    p = Preprocessing(height=6, width=7, resize="crop", mean=(0.4,) * 3, std=(0.2,) * 3)
    assert p.geometry_only() == Preprocessing(height=6, width=7, resize="crop")
    assert p.geometry_only() != replace(p, crop_fraction=0.5).geometry_only()


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
    ],
)
def test_refuses_what_is_no_image(image: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"uint8 of shape \(height, width, 3\).*got"):
        Preprocessing(height=4, width=4).geometry(image)


@pytest.mark.parametrize(
    "batch",
    [np.zeros((1, 4, 4, 3)), np.zeros((4, 4, 3), np.uint8), np.zeros((1, 4, 4, 1), np.uint8)],
)
def test_refuses_what_is_no_batch(batch: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"uint8 of shape \(N, height, width, 3\); got"):
        Preprocessing(height=4, width=4).normalize(batch)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"height": 4},
        {"height": 4, "width": 4, "colour": "rgb"},
        {"height": 4, "width": 4, "color": "bgr"},
        {"height": 0, "width": 4},
        {"height": 4.5, "width": 4},
        {"height": True, "width": 4},
        {"height": "4", "width": 4},
        {"height": 4, "width": 20000},
        {"height": 4, "width": 4, "resize": "fit"},
        {"height": 4, "width": 4, "interpolation": "lanczos"},
        {"height": 4, "width": 4, "crop_fraction": 0},
        {"height": 4, "width": 4, "crop_fraction": math.nan},
        {"height": 4, "width": 4, "pad_value": 256},
        {"height": 4, "width": 4, "pad_value": 0.5},
        {"height": 4, "width": 4, "mean": [0.5]},
        {"height": 4, "width": 4, "mean": ["x", 0, 0]},
        {"height": 4, "width": 4, "mean": None},
        {"height": 4, "width": 4, "mean": [math.nan, 0, 0]},
        {"height": 4, "width": 4, "std": [1, 1, 0]},
        {"height": 4, "width": 4, "std": [1, 1, 1e-300]},
    ],
)
def test_refuses_descriptions_out_of_range(values: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="preprocessing"):
        Preprocessing.from_dict(values)
