from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from edgevision.benchmark import BenchConfig, compare
from edgevision.benchmark.charts import histogram, interval, lollipops, strip
from edgevision.benchmark.report import render_html, write_html
from edgevision.benchmark.report_schema import (
    CandidateRow,
    DataSection,
    LayerRow,
    ModelSection,
    PruningRow,
    PruningSection,
    QuantizationSection,
    Report,
    SizeRow,
    read_report,
)
from edgevision.bundle import AccuracyVerdict, LatencyVerdict, Lineage, Verdict
from edgevision.errors import InputError

EVIL = "</td><script>alert(1)</script><img src=x onerror=alert(1)>\"'&"


def _report(name: str = "net") -> Report:
    latency = compare(
        {f"fp32 {name}": lambda: sum(range(300)), f"int8 {name}": lambda: sum(range(100))},
        baseline=f"fp32 {name}",
        config=BenchConfig(seconds=0.1, max_rounds=100),
    ).to_dict()
    return Report.model_validate(
        {
            "title": f"{name} on cpu",
            "model": ModelSection(
                reference=name, task=name, parameters=(20, 10), macs=(4000, 1000), input=name
            ),
            "data": DataSection(reference=name, train_images=5, validation_images=3),
            "target": name,
            "verdict": Verdict(
                passed=False,
                exit_code=4,
                reasons=(f"because of {name}",),
                accuracy=AccuracyVerdict(
                    metric=name,
                    baseline=91.25,
                    candidate=90.0,
                    drop=1.25,
                    budget=0.5,
                    n_images=10_000,
                    per_class={name: (91.0, 90.0), "none": (None, 1.0)},
                ),
                latency=LatencyVerdict(baseline=3.0, candidate=1.0, ratio=3.0, low=2.9, high=3.1),
            ),
            "candidates": [CandidateRow(name=name, accuracy=90, drop=1.25, note=name)],
            "latency": latency,
            "end_to_end": latency,
            "layers": [LayerRow(name=name, operator=name, asked=name, used=name)],
            "pruning": PruningSection(
                facts={name: [1, 2]}, rows=(PruningRow(layer=name, before=64, after=16),)
            ),
            "quantization": QuantizationSection(
                scheme=name, method=name, facts={"images": 512}, left_in_float={name: name}
            ),
            "sizes": [
                SizeRow(name=name, bytes=4_000_000, role="baseline"),
                SizeRow(name=name, bytes=1_000_000, role="shipped"),
            ],
            "environment": {name: {"deep": name}, "load": 0.5},
            "lineage": Lineage(model=name, stages={"export": "abc"}),
        }
    )


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == [], "every tag is closed"

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_page_is_well_formed_and_shows_every_section() -> None:
    page = Page(render_html(_report()))
    text = " ".join(page.text)
    for wanted in (
        "Accuracy budget not met",
        "because of net",
        "90.00 %",
        "drop 1.25 of 0.5 points allowed",
        "10,000 images",
        "3.00 times",
        "95 % interval 2.90 to 3.10",
        "4.00 times",  # smaller and fewer MACs
        "4.00 MB → 1.00 MB",
        "Candidates",
        "Device latency",
        "End-to-end latency",
        "Accuracy by class",
        "Layers",
        "75 %",
        "Quantization",
        "Files",
        "Environment",
        "Lineage",
    ):
        assert wanted in text, wanted


def test_nothing_is_loaded_from_elsewhere() -> None:
    text = render_html(_report())
    page = Page(text)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object"}
    for tag, attributes in page.tags:
        assert not {"src", "href", "action"} & attributes.keys(), tag
        assert not [name for name in attributes if name.startswith("on")]
    assert "url(" not in text
    assert "@import" not in text
    assert not re.search(r"https?://", text)


def test_hostile_values_stay_text() -> None:
    page = Page(render_html(_report(EVIL)))
    assert "script" not in {tag for tag, _ in page.tags}
    assert "img" not in {tag for tag, _ in page.tags}
    assert "".join(page.text).count("<script>alert(1)</script>") >= 15, "shown, as text"


def test_only_what_is_there_is_shown() -> None:
    report = Report(
        title="bare",
        model=ModelSection(reference="m", task="t"),
        target="cpu",
        verdict=Verdict(passed=True, exit_code=0),
    )
    text = " ".join(Page(render_html(report)).text)
    assert "Passed" in text
    for absent in ("Layers", "latency", "Pruning", "None", "Environment"):
        assert absent not in text


def test_json_round_trip_and_file(tmp_path: Path) -> None:
    report = _report()
    assert read_report(report.to_bytes()) == report
    page = write_html(json.loads(report.to_bytes()), tmp_path / "out" / "report.html")
    assert page.read_text(encoding="utf-8") == render_html(report)
    assert [path.name for path in page.parent.iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    "bad", [b"{", b"[]", b"[" * 100_000, {"title": "x"}, b'{"title": NaN}', b"\xff"]
)
def test_what_is_no_report(bad: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Report"):
        read_report(bad)


def test_unknown_fields_are_named() -> None:
    values = json.loads(_report().to_bytes()) | {"surprise": 1}
    with pytest.raises(InputError, match="surprise"):
        read_report(values)


@pytest.mark.parametrize(
    "samples",
    [
        {},
        {"a": []},
        {"a": [1.0]},
        {"a": [1.0, 1.0, 1.0]},
        {"a": [1e-6, 1e-6], "b": [1e4, 2e4]},
        {"a": [1.0] * 99 + [1e6]},
    ],
)
def test_charts_of_odd_samples(samples: dict[str, list[float]]) -> None:
    for chart in (histogram(samples), strip(samples)):
        assert "nan" not in chart
        assert "inf" not in chart
        numbers = re.findall(r' (?:x|y|cx|cy|width|height)="([^"]*)"', chart)
        assert all(-1 <= float(number) <= 481 for number in numbers)


def test_a_histograms_bars_hold_every_sample() -> None:
    chart = histogram({"a": [1.0] * 30 + [2.0] * 10})
    heights = [float(h) for h in re.findall(r'<rect [^>]*height="([^"]*)"', chart)]
    assert len(heights) == 2
    assert heights[0] == pytest.approx(3 * heights[1], rel=0.01)


def test_interval_places_one_and_the_ratio() -> None:
    chart = interval(3.0, 2.9, 3.1)
    one = float(re.search(r'class="one" x1="([^"]*)"', chart)[1])  # type: ignore[index]
    dot = float(re.search(r'<circle cx="([^"]*)"', chart)[1])  # type: ignore[index]
    assert one < dot
    assert "3.00 times (2.90 to 3.10)" in chart


def test_noise_of_layers_is_drawn_in_order_with_the_worst_named() -> None:
    chart = lollipops({"a": 40.0, EVIL: 12.5, "c": 30.0, "d": 35.0}, "dB", "SQNR")
    assert chart.count("<circle") == 4
    assert "<script" not in chart
    heights = [float(y) for y in re.findall(r'cy="([\d.]+)"', chart)]
    assert heights.index(max(heights)) == 1, "less is lower on the page"
    assert "lowest: " in chart
    assert "12.5 dB, c 30 dB, d 35 dB" in chart
    assert lollipops({}, "dB", "SQNR") == ""


def test_layers_show_noise_range_and_reason() -> None:
    row = LayerRow(
        name="conv",
        operator="Conv",
        asked="int8",
        used="fp32",
        reason="precision not honoured",
        sqnr_db=31.25,
        amax=2.5,
        saturated=0.0012,
        trait="depthwise",
    )
    report = _report().model_copy(update={"layers": (row,)})
    page = render_html(report)
    cells = ("Conv (depthwise)", "31.2", "2.5", "0.120", "precision not honoured")
    assert all(f">{cell}<" in page for cell in cells)
    assert "SQNR of each layer" in page
