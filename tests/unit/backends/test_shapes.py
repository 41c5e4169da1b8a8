from __future__ import annotations

import pytest

from edgevision.backends.shapes import InputShapes, parse_shapes
from edgevision.errors import UsageError


def test_texts_in_trtexecs_form() -> None:
    assert parse_shapes("a:1x3x8x8", "a:2x3x8x8,b:4", "a:4x3x16x16,b:8") == {
        "a": InputShapes((1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 16, 16)),
        "b": InputShapes((4,), (4,), (8,)),
    }
    assert parse_shapes(None, "input:0:1x3", None) == {
        "input:0": InputShapes((1, 3), (1, 3), (1, 3))
    }
    assert parse_shapes(None, None, None) == {}


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        ((None, "1x3x8x8", None), "--opt-shapes takes NAME:AxBxC"),
        ((None, "a:1x3x", None), "--opt-shapes"),
        ((None, "a:-1x3", None), "--opt-shapes"),
        ((None, "a:1x²", None), "--opt-shapes"),
        (("a:", "a:1", None), "--min-shapes"),
        (("a:1x3", None, None), "--min-shapes names the input 'a', --opt-shapes does not"),
        ((None, "a:1x3", "b:1x3"), "--max-shapes names the input 'b'"),
        (("a:2x3", "a:1x3", None), r"1 <= min <= opt <= max.*got 2x3, 1x3, 1x3"),
        (("a:0x3", "a:1x3", None), "got 0x3"),
        (("a:1x3x8", "a:1x3", None), "same axes"),
    ],
)
def test_what_makes_no_profile_is_refused(texts: tuple[str | None, ...], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        parse_shapes(*texts)
