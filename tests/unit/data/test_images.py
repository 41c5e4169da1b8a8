"""Every form of image file that people have, and files that are none."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgevision.data.images import MOST_PIXELS, decode_image
from edgevision.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def huge_png(width: int, height: int) -> bytes:
    """A PNG whose header promises ``width`` x ``height`` gray pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("suffix", "kind", "options"),
    [
        ("png", "PNG", {}),
        ("bmp", "BMP", {}),
        ("webp", "WEBP", {"lossless": True}),
        ("tif", "TIFF", {}),
        ("TIFF", "TIFF", {"compression": "tiff_lzw"}),
    ],
)
def test_lossless_formats_give_their_pixels(
    tmp_path: Path, suffix: str, kind: str, options: dict[str, object]
) -> None:
    path = tmp_path / f"image.{suffix}"
    path.write_bytes(encoded(Image.fromarray(PIXELS), kind, **options))
    assert np.array_equal(decode_image(path), PIXELS)
    assert np.array_equal(decode_image(str(path)), PIXELS)
    assert np.array_equal(decode_image(path.read_bytes()), PIXELS)


def test_jpeg_is_what_pillow_decodes() -> None:
    content = encoded(Image.fromarray(PIXELS), "JPEG", quality=95)
    assert np.array_equal(decode_image(content), np.asarray(Image.open(io.BytesIO(content))))


def test_the_result_can_be_written_to() -> None:
    image = decode_image(encoded(Image.fromarray(PIXELS)))
    image[0, 0] = 1
    assert image[0, 0].tolist() == [1, 1, 1]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(PIXELS), exif=exif.tobytes())
    turned = {
        1: PIXELS,
        2: PIXELS[:, ::-1],
        3: PIXELS[::-1, ::-1],
        4: PIXELS[::-1],
        5: PIXELS.transpose(1, 0, 2),
        6: np.rot90(PIXELS, -1),
        7: PIXELS[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(PIXELS),
    }
    assert np.array_equal(decode_image(content), turned[orientation])


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's, of what the test hands it
def test_unreadable_exif_does_not_cost_the_image() -> None:
    content = encoded(Image.fromarray(PIXELS), exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert np.array_equal(decode_image(content), PIXELS)


def test_transparency_lies_on_white() -> None:
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 3] = 255, 0, 128
    assert decode_image(encoded(Image.fromarray(rgba)))[0, :, 0].tolist() == [0, 255, 127]
    la = Image.fromarray(rgba).convert("LA")
    assert decode_image(encoded(la))[0, :, 0].tolist() == [0, 255, 127]


def test_palette_with_and_without_transparency() -> None:
    picture = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    picture.putpalette([10, 20, 30, 40, 50, 60])
    assert decode_image(encoded(picture)).tolist() == [[[10, 20, 30], [40, 50, 60]]]
    with_hole = encoded(picture, transparency=1)
    assert decode_image(with_hole).tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_gray_and_bilevel_repeat_over_three_channels() -> None:
    gray = Image.fromarray(PIXELS[..., 0])
    assert np.array_equal(decode_image(encoded(gray)), PIXELS[..., :1].repeat(3, 2))
    bits = Image.fromarray(PIXELS[..., 0] > 127)
    expected = np.where(PIXELS[..., :1] > 127, 255, 0).repeat(3, 2)
    assert np.array_equal(decode_image(encoded(bits)), expected)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_gray_is_scaled_not_cut(kind: str) -> None:
    values = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    found = decode_image(encoded(Image.fromarray(values), kind))
    assert found[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]


def test_cmyk_jpeg_becomes_rgb() -> None:
    picture = Image.fromarray(PIXELS).convert("CMYK")
    assert decode_image(encoded(picture, "JPEG")).shape == (6, 9, 3)


def test_the_first_picture_of_several() -> None:
    first, second = Image.fromarray(PIXELS), Image.fromarray(PIXELS[::-1])
    content = encoded(first, "TIFF", save_all=True, append_images=[second])
    assert np.array_equal(decode_image(content), PIXELS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"x\.png: the file is empty \(0 bytes\)"),
        (b"hello, this is text", r"x\.png: no image of a known format .*b'hello, t'"),
        (encoded(Image.fromarray(PIXELS))[:20], r"x\.png: .*damaged or truncated"),
        (b"GIF89a" + bytes(20), r"x\.png: no image of a known format"),
        (encoded(Image.fromarray(PIXELS))[:-30], r"x\.png: the image is damaged or truncated"),
        (encoded(Image.fromarray(PIXELS), "JPEG")[:-200], r"x\.png: .*damaged or truncated"),
        (encoded(Image.fromarray(PIXELS.astype(np.float32)[..., 0]), "TIFF"), "floating point"),
        (
            encoded(Image.fromarray(np.array([[70000, 1]], np.int32)), "TIFF"),
            "expected 16-bit values from 0 to 65535, got 1 to 70000",
        ),
        (huge_png(60_000, 60_000), f"more pixels than the {MOST_PIXELS} allowed"),
    ],
)
def test_refuses_with_the_file_and_the_cause(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        decode_image(path)


@pytest.mark.parametrize("strict", [True, False])
def test_refuses_what_pillow_only_warns_of(strict: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error" if strict else "ignore")
        with pytest.raises(DataError, match="more pixels"):
            decode_image(huge_png(10_000, 10_000))


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        decode_image(tmp_path / "none.png")
    with pytest.raises(DataError, match="found a folder or a device"):
        decode_image(tmp_path)
    with pytest.raises(DataError, match="found a folder or a device"):
        decode_image("/dev/zero")
    with pytest.raises(DataError, match=r"\.png: the file cannot be read"):
        decode_image("a\0b.png")


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(["PNG", "JPEG", "BMP", "WEBP", "TIFF"]), st.data())
def test_damaged_bytes_give_an_image_or_our_error(kind: str, data: st.DataObject) -> None:
    content = bytearray(encoded(Image.fromarray(PIXELS), kind))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(1, len(content)))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata; it is not what is tested
        try:
            image = decode_image(bytes(content))
        except DataError:
            return
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
