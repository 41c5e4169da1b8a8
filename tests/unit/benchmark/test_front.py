from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from edgevision.benchmark.front import Front, FrontRow, fastest_within, marked
from edgevision.benchmark.front_page import render_front, tip
from tests.unit.benchmark.fronts import front, row, six


def names(rows: tuple[FrontRow, ...], **wanted: bool) -> list[str]:
    return [r.name for r in rows if all(getattr(r, k) == v for k, v in wanted.items())]


def test_dominated_is_what_another_row_beats() -> None:
    assert names(six().rows, dominated=True) == ["front-1", "front-5"]


@pytest.mark.parametrize(
    ("other", "dominated"),
    [
        ((90.0, 0.2), False),  # the same: neither beats the other
        ((90.0, 0.1), True),  # as accurate, faster
        ((91.0, 0.2), True),  # as fast, more accurate
        ((89.0, 0.1), False),
        ((91.0, 0.3), False),
    ],
)
def test_one_row_beats_another_in_one_thing_without_losing_in_the_other(
    other: tuple[float, float], dominated: bool
) -> None:
    first, _ = marked([row("a", 90.0, 0.2), row("b", *other)])
    assert first.dominated == dominated


def test_the_fastest_within_the_budget_is_a_bundle_that_passed() -> None:
    assert six().fastest_within == "front-4"
    points = [row("front-1", 93.9, 0.3), row("front-2", 93.8, 0.2, passed=False)]
    assert fastest_within(points) == "front-1"
    assert fastest_within([row("front-1", 80.0, 0.1)]) is None


def test_notes_tell_what_a_point_misses() -> None:
    notes = {r.name: r.note for r in six().rows}
    assert notes["front-5"] == "beyond the budget, slower than asked, dominated"
    assert notes["front-4"] == ""
    assert row("a", 93.9, 0.2, passed=False).note == "verdict not passed"
    assert row("a", 93.9, 0.2, steady=False).note == "measured on a busy machine"


def test_the_file_comes_back_as_it_was() -> None:
    assert Front.model_validate_json(six().to_bytes()) == six()


class _Balanced(HTMLParser):
    """Fails on a tag that is closed out of turn or never."""

    void = ("meta",)

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        """Closes itself."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_shows_every_row_the_budget_and_the_choice() -> None:
    page = render_front(six())
    parser = _Balanced()
    parser.feed(page)
    assert not parser.open
    assert "Fastest within the budget: front-4" in page
    assert "budget: 0.5 points below FP32, 93.50 %" in page
    assert page.count('class="point ') == 7
    assert page.count('class="ring"') == 1
    hollow = re.findall(r'class="point s\d hollow"><title>([^:]+):', page)
    assert hollow == names(six().rows, dominated=True)
    assert "<script" not in page
    assert page == render_front(six())


def test_faster_is_further_left_and_more_accurate_further_up() -> None:
    found = re.findall(
        r'class="point .*?</title>.*?<circle cx="([\d.]+)" cy="([\d.]+)" r="7"',
        render_front(six()),
        re.DOTALL,
    )
    places = [(float(x), float(y)) for x, y in found]
    rows = six().rows
    for a, (ax, ay) in zip(rows, places, strict=True):
        for b, (bx, by) in zip(rows, places, strict=True):
            assert (ax < bx) == (a.latency_p50_ms < b.latency_p50_ms)
            assert (ay < by) == (a.accuracy > b.accuracy)


def test_hovering_shows_widths_macs_and_size() -> None:
    text = tip(six().rows[3])
    for part in ("21,000,000 MACs", "200.00 kB", "layers.1.conv 64 → 56", "chosen for 5.3 times"):
        assert part in text
    many = row("a", 93.9, 0.2, widths={f"layer{k}": (8, 4) for k in range(20)})
    assert tip(many).endswith("and 8 more layers")


def test_names_are_escaped() -> None:
    page = render_front(six().model_copy(update={"model": "<script>alert(1)</script>"}))
    assert "<script" not in page


@pytest.mark.parametrize("accuracies", [(94.0, 94.0), (94.0, 3.0), (0.0, 0.0)])
def test_pages_of_extreme_fronts(accuracies: tuple[float, float]) -> None:
    base, last = accuracies
    rows = [
        row("FP32", base, 0.9, kind="FP32"),
        row("front-1", base, 0.9, kind="INT8 only"),
        row("front-2", last, 0.9),
    ]
    page = render_front(front(*rows, budget=100.0))
    assert "nan" not in page
    assert page.count('class="point ') == 3
