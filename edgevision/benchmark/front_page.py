"""The page of a front: accuracy over measured latency, and the table behind it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from edgevision.benchmark import markup
from edgevision.benchmark.front import Front, FrontRow, Kind

_WIDTH, _HEIGHT = 980, 440
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 28, 24, 52
_SERIES: dict[Kind, int] = {"FP32": 0, "INT8 only": 2, "pruned + INT8": 1, "pruned FP32": 3}
_MOST_TICKS = 9
_SHOWN = 12  # narrowed layers that a tip lists


def render_front(front: Front) -> str:
    """The page as text. Equal fronts give equal pages."""
    return markup.page(
        f"Front: {front.model} on {front.target}",
        [_header(front), _plot(front), _table(front), _measured(front)],
    )


def _header(front: Front) -> str:
    fastest = next((row for row in front.rows if row.name == front.fastest_within), None)
    base = front.rows[0]
    if fastest is None:
        badge = f'<p class="badge bad">No point passed within {front.budget:g} points of FP32</p>'
        tiles = ""
    else:
        badge = f'<p class="badge good">Fastest within the budget: {escape(fastest.name)}</p>'
        tiles = (
            markup.tile(
                f"{fastest.speedup:.2f} times",
                "FP32's speed",
                f"{base.latency_p50_ms:.3f} → {fastest.latency_p50_ms:.3f} ms p50, 95 % interval "
                f"{fastest.low:.2f} to {fastest.high:.2f}",
            )
            + markup.tile(
                f"{fastest.accuracy:.2f} %",
                f"{front.metric} accuracy",
                f"FP32 {base.accuracy:.2f} %, drop {fastest.drop:.2f} of {front.budget:g} points "
                f"allowed, {front.images:,} images",
            )
            + markup.tile(
                f"{base.bytes / fastest.bytes:.2f} times",
                "smaller",
                f"{markup.in_bytes(base.bytes)} → {markup.in_bytes(fastest.bytes)}",
            )
        )
    return (
        f"<header>{badge}<h1>{escape(front.model)} on {escape(front.target)}: "
        f"{len(front.points)} bundles from accurate to fast</h1>"
        f"<p>data {escape(front.data)} · budget {front.budget:g} percentage points</p>"
        f'<div class="tiles">{tiles}</div></header>'
    )


class _Axes:
    """Logarithmic milliseconds to the right, percent upwards."""

    def __init__(self, front: Front) -> None:
        times = [row.latency_p50_ms for row in front.rows]
        values = [row.accuracy for row in front.rows]
        self.limit = max(0.0, front.rows[0].accuracy - front.budget)
        # The budget's line is in sight unless that would squeeze the points together.
        spread = max(max(values) - min(values), 0.5)
        low = min(values)
        if low - self.limit <= spread:
            low = min(low, self.limit)
        margin = 0.12 * max(max(values) - low, 0.5)
        self.low, self.high = max(0.0, low - margin), max(values) + margin
        self.fast, self.slow = min(times) / 1.3, max(times) * 1.15

    def x(self, milliseconds: float) -> float:
        share = math.log(milliseconds / self.fast) / math.log(self.slow / self.fast)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, accuracy: float) -> float:
        share = (accuracy - self.low) / (self.high - self.low)
        return _TOP + (1 - share) * (_HEIGHT - _TOP - _BOTTOM)


def _plot(front: Front) -> str:
    axes = _Axes(front)
    body = [_grid(axes), _budget(axes, front), _best_line(axes, front.rows)]
    body += [_point(axes, row, front) for row in front.rows]
    present = [kind for kind in _SERIES if any(row.kind == kind for row in front.rows)]
    keys = "".join(
        f'<span class="key"><i class="b{_SERIES[kind]}"></i>{escape(kind)}</span>'
        for kind in present
    )
    hollow = " Hollow: another one is at least as accurate and as fast."
    ring = " Ring: the fastest within the budget." if front.fastest_within else ""
    caption = f"Up and to the left is better. Hover for widths, MACs and size.{ring}" + (
        hollow if any(row.dominated for row in front.rows) else ""
    )
    return markup.section(
        "Accuracy over measured latency",
        f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="Accuracy over median latency of {len(front.rows)} networks">'
        f"{''.join(body)}</svg><figcaption>{escape(caption)} {keys}</figcaption></figure>",
    )


def _grid(axes: _Axes) -> str:
    bottom = _HEIGHT - _BOTTOM
    lines = [
        f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{axes.y(v):.1f}" '
        f'y2="{axes.y(v):.1f}"/><text x="{_LEFT - 8}" y="{axes.y(v) + 4:.1f}" '
        f'text-anchor="end">{v:g}</text>'
        for v in _ticks(axes.low, axes.high)
    ]
    lines += [
        f'<line class="axis" x1="{axes.x(v):.1f}" x2="{axes.x(v):.1f}" y1="{_TOP}" '
        f'y2="{bottom}"/><text x="{axes.x(v):.1f}" y="{bottom + 18}" '
        f'text-anchor="middle">{v:g}</text>'
        for v in _log_ticks(axes.fast, axes.slow)
    ]
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    return "".join(lines) + (
        f'<text x="{middle:.0f}" y="{_HEIGHT - 10}" text-anchor="middle">'
        "median latency in ms, batch 1, logarithmic</text>"
        f'<text x="{_LEFT}" y="{_TOP - 10}">accuracy in %</text>'
    )


def _budget(axes: _Axes, front: Front) -> str:
    """The line of the budget, and what lies below it shaded."""
    if axes.limit < axes.low:
        return ""
    y, right = axes.y(axes.limit), _WIDTH - _RIGHT
    return (
        f'<rect class="beyond" x="{_LEFT}" y="{y:.1f}" width="{right - _LEFT}" '
        f'height="{_HEIGHT - _BOTTOM - y:.1f}"/>'
        f'<line class="limit" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{right - 4}" y="{y + 15:.1f}" text-anchor="end">budget: '
        f"{front.budget:g} points below FP32, {axes.limit:.2f} %</text>"
    )


def _best_line(axes: _Axes, rows: Sequence[FrontRow]) -> str:
    best = sorted((row for row in rows if not row.dominated), key=lambda r: r.latency_p50_ms)
    places = " ".join(f"{axes.x(r.latency_p50_ms):.1f},{axes.y(r.accuracy):.1f}" for r in best)
    return f'<polyline class="best" points="{places}"/>'


def _point(axes: _Axes, row: FrontRow, front: Front) -> str:
    x, y = axes.x(row.latency_p50_ms), axes.y(row.accuracy)
    chosen = row.name == front.fastest_within
    ring = f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="13"/>' if chosen else ""
    label = "FP32" if row.kind == "FP32" else f"{row.name.rpartition('-')[2]}: {row.speedup:.1f}x"
    above = y - (19 if chosen else 14)
    # To the upper left the line through the best points is never in the way.
    return (
        f'<g class="point s{_SERIES[row.kind]}{" hollow" if row.dominated else ""}">'
        f"<title>{escape(tip(row))}</title>{ring}"
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="7"/>'
        f'<text x="{x - 5:.1f}" y="{above:.1f}" text-anchor="end" class="strong">'
        f"{escape(label)}</text></g>"
    )


def tip(row: FrontRow) -> str:
    """What hovering shows, line by line."""
    lines = [
        f"{row.name}: {row.kind}",
        f"{row.accuracy:.2f} %, drop {row.drop:+.2f}",
        f"{row.latency_p50_ms:.3f} ms, {row.speedup:.2f} times FP32 "
        f"({row.low:.2f} to {row.high:.2f})",
    ]
    if row.asked is not None:
        lines.append(f"widths chosen for {row.asked:g} times")
    if row.macs is not None:
        lines.append(f"{row.macs:,} MACs")
    lines.append(f"{row.artifact}, {markup.in_bytes(row.bytes)}")
    if row.note:
        lines.append(row.note)
    widths = [f"{name} {before} → {after}" for name, (before, after) in row.widths.items()]
    lines += widths[:_SHOWN]
    if len(widths) > _SHOWN:
        lines.append(f"and {len(widths) - _SHOWN} more layers")
    return "\n".join(lines)


def _table(front: Front) -> str:
    base = front.rows[0]
    rows = [
        (
            row.name,
            row.kind.replace(" ", "\u00a0"),
            f"{row.accuracy:.2f}",
            f"{row.drop:+.2f}",
            f"{row.latency_p50_ms:.3f}",
            "1" if row is base else f"{row.speedup:.2f} ({row.low:.2f} to {row.high:.2f})",
            "" if row.asked is None else f"{row.asked:g}",
            "" if row.macs is None else f"{row.macs / 1e6:,.2f}",
            markup.in_bytes(row.bytes),
            ", ".join(filter(None, [_best(row, front), row.note])),
        )
        for row in front.rows
    ]
    head = (
        "Bundle", "Network", f"{front.metric} %", "Drop", "p50 ms", "Times FP32", "Asked",
        "MMACs", "Size", "",
    )  # fmt: skip
    note = (
        "Of a bundle whose verdict did not pass, as beyond the budget, the runtime runs FP32 "
        "unless another file is named; to ship it, allow a larger drop in the same command: what "
        "was trained is kept."
    )
    widths = "".join(
        f"<details><summary>Channels of {escape(row.name)}</summary>"
        + markup.table(
            ("Layer", "before", "after"),
            [(name, f"{b}", f"{a}") for name, (b, a) in row.widths.items()],
            numbers=(1, 2),
        )
        + "</details>"
        for row in front.points
        if row.widths
    )
    table = markup.table(head, rows, numbers=range(2, 9))
    told = "" if all(row.passed for row in front.points) else f"<p>{escape(note)}</p>"
    return markup.section("Bundles", f"{table}{told}{widths}")


def _best(row: FrontRow, front: Front) -> str:
    return "fastest within the budget" if row.name == front.fastest_within else ""


def _measured(front: Front) -> str:
    text = (
        "All rows in one run: every round calls each network once, in random order, after a "
        "warm-up; the interval is a block bootstrap over the rounds."
    )
    return markup.section(
        "How it was measured",
        f"<p>{escape(text)}</p><details><summary>Protocol and environment</summary>"
        + markup.pairs(front.latency.protocol)
        + markup.pairs(front.latency.environment)
        + "</details>",
    )


def _ticks(low: float, high: float) -> list[float]:
    """Four to nine round values from ``low`` to ``high``."""
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(step * factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) < 9)
    first = math.ceil(low / step)
    return [round(step * n, 10) for n in range(first, math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Round values from ``low`` to ``high``, as many as can be read beside one another."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        values = [float(f"{d * 10.0**p:.3g}") for p in powers for d in digits]
        denser = [value for value in values if low <= value <= high]
        if len(denser) > _MOST_TICKS:
            break
        found = denser
    return found or _ticks(low, high)
