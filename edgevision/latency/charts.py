"""Inline SVG charts of a network's times. Numbers in, markup out; no scripts, no fonts."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from edgevision.latency.curves import GroupCurve
from edgevision.latency.grid import HeatMap

# Light to dark, so that printed pages read the same.
_COLOURS = ((239, 246, 255), (147, 197, 253), (59, 130, 246), (30, 64, 175), (15, 23, 66))
_CELL_WIDTH, _CELL_HEIGHT, _LEFT, _TOP, _BOTTOM = 46, 24, 58, 8, 44
_LEAST_WIDTH, _ROWS_FOR_NAME = 190, 4  # that the axes' names want
_SIZE = 380

CSS = """
.maps { display: grid; grid-template-columns: repeat(auto-fit, minmax(440px, 1fr)); gap: 22px; }
.maps h3 { font-size: 15px; margin: 0; } .maps figure p { margin: 0 0 6px; font-size: 13px; }
svg .cell { font-size: 10.5px; text-anchor: middle; fill: inherit; }
svg.heat g { opacity: 1; } svg .own { fill: none; stroke: var(--c2); stroke-width: 2.5; }
svg .stairs { fill: none; stroke: var(--c1); stroke-width: 1.6; }
svg.spark { width: 168px; height: 34px; } svg.scatter { max-width: 460px; }
.badge.estimate { background: #8a5a00; } .badge.measured { background: #137a3f; }
.warning { border-left: 4px solid #c2620a; padding-left: 12px; color: var(--ink); }
.scale { display: inline-block; width: 90px; height: 9px; border-radius: 3px; margin: 0 6px;
  background: linear-gradient(90deg, rgb(239,246,255), rgb(147,197,253), rgb(59,130,246),
  rgb(30,64,175), rgb(15,23,66)); }
td.bars { min-width: 90px; width: 30%; vertical-align: middle; } td.bars .bar span { height: 9px; }
td.bars .bar { height: 9px; }
"""


def heat_map(found: HeatMap) -> str:
    """Milliseconds as colours and numbers: columns by channels given, rows by channels read."""
    rows = found.milliseconds
    low, high = min(map(min, rows)), max(map(max, rows))
    factor, _ = unit_of(high)
    width = max(_LEAST_WIDTH, _LEFT + _CELL_WIDTH * len(found.outs) + 8)
    height = _TOP + _CELL_HEIGHT * len(rows) + _BOTTOM
    upright = len(rows) >= _ROWS_FOR_NAME
    sources: tuple[int | None, ...] = found.sources or (None,)
    body = []
    for number, (source, row) in enumerate(zip(sources, rows, strict=True)):
        y = _TOP + _CELL_HEIGHT * (len(rows) - 1 - number)  # as many as there are at the top
        if source is not None:
            body.append(
                f'<text x="{_LEFT - 8}" y="{y + 16}" text-anchor="end">'
                f"{source}{'' if upright else ' read'}</text>"
            )
        for column, (out, milliseconds) in enumerate(zip(found.outs, row, strict=True)):
            x = _LEFT + _CELL_WIDTH * column
            share = (milliseconds - low) / (high - low) if high > low else 0.5
            text = "#0f1742" if share < 0.42 else "#ffffff"
            reads = f"{source} read, " if source is not None else ""
            body.append(
                f"<g><title>{reads}{out} given: {milliseconds:.4f} ms</title>"
                f'<rect x="{x}" y="{y}" width="{_CELL_WIDTH - 1}" height="{_CELL_HEIGHT - 1}" '
                f'fill="{_colour(share)}"/><text class="cell" style="fill:{text}" '
                f'x="{x + _CELL_WIDTH / 2 - 0.5}" y="{y + 16}">{_short(factor * milliseconds)}'
                "</text></g>"
            )
    base = _TOP + _CELL_HEIGHT * len(rows)
    for column, out in enumerate(found.outs):
        x = _LEFT + _CELL_WIDTH * column + _CELL_WIDTH // 2
        body.append(f'<text x="{x}" y="{base + 15}" text-anchor="middle">{out}</text>')
    own = _LEFT + _CELL_WIDTH * (len(found.outs) - 1)
    body.append(
        f'<rect class="own" x="{own}" y="{_TOP}" width="{_CELL_WIDTH - 1}" '
        f'height="{_CELL_HEIGHT - 1}"/>'
    )
    middle = _LEFT + _CELL_WIDTH * len(found.outs) / 2
    what = "channels given" if found.sources else "channels"
    body.append(f'<text x="{middle}" y="{base + 34}" text-anchor="middle">{what}</text>')
    if upright:
        at = _TOP + _CELL_HEIGHT * len(rows) / 2
        body.append(
            f'<text transform="translate(14 {at}) rotate(-90)" text-anchor="middle">'
            "channels read</text>"
        )
    return (
        f'<svg class="heat" style="max-width:{width}px" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="Milliseconds of {escape(found.kind)} over its channels">'
        f"{''.join(body)}</svg>"
    )


def scale(found: HeatMap) -> str:
    """The legend of a heat map's colours."""
    low = min(map(min, found.milliseconds))
    high = max(map(max, found.milliseconds))
    factor, unit = unit_of(high)
    return f'{_short(factor * low)}<span class="scale"></span>{_short(factor * high)} {unit}'


def unit_of(milliseconds: float) -> tuple[float, str]:
    """What a millisecond is multiplied by to be shown, and the unit's name."""
    return (1.0, "ms") if milliseconds >= 1 else (1000.0, "µs")


def stairs(curve: GroupCurve) -> str:
    """The network's time over a group's width, from its narrowest to the whole group."""
    width, height = 168, 34
    low, high = curve.milliseconds[-1], curve.milliseconds[0]
    span = (high - low) or 1.0
    narrow, whole = curve.units[-1], curve.units[0]
    points = []
    before = None
    for units, milliseconds in zip(curve.units[::-1], curve.milliseconds[::-1], strict=True):
        x = 3 + (width - 6) * (units - narrow) / max(1, whole - narrow)
        y = height - 4 - (height - 8) * (milliseconds - low) / span
        if before is not None:
            points.append(f"{x:.1f},{before:.1f}")
        points.append(f"{x:.1f},{y:.1f}")
        before = y
    return (
        f'<svg class="spark" viewBox="0 0 {width} {height}" role="img" aria-label="'
        f'{_short(low)} ms at {narrow} units to {_short(high)} ms at {whole}">'
        f"<title>{narrow} units: {low:.4f} ms, {whole} units: {high:.4f} ms</title>"
        f'<polyline class="stairs" points="{" ".join(points)}"/></svg>'
    )


def scatter(measured: Sequence[float], predicted: Sequence[float]) -> str:
    """Predicted over measured milliseconds; on the line they are equal."""
    left, bottom, margin = 66, 44, 22
    low = min(*measured, *predicted)
    high = max(*measured, *predicted)
    pad = 0.06 * (high - low or high)
    low, high = max(0.0, low - pad), high + pad
    side = _SIZE - left - margin

    def x(value: float) -> float:
        return left + side * (value - low) / (high - low)

    def y(value: float) -> float:
        return margin + side * (1 - (value - low) / (high - low))

    floor = margin + side
    body = [
        f'<line class="one" x1="{left}" y1="{floor}" x2="{left + side}" y2="{margin}"/>',
        f'<line class="axis" x1="{left}" y1="{floor}" x2="{left + side}" y2="{floor}"/>',
        f'<line class="axis" x1="{left}" y1="{margin}" x2="{left}" y2="{floor}"/>',
    ]
    for step in range(5):
        value = low + (high - low) * step / 4
        body.append(
            f'<text x="{x(value):.1f}" y="{floor + 16}" text-anchor="middle">{_short(value)}</text>'
            f'<text x="{left - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{_short(value)}</text>'
        )
    dots = "".join(
        f'<circle cx="{x(m):.1f}" cy="{y(p):.1f}" r="3.4"><title>measured {m:.4f} ms, predicted '
        f"{p:.4f} ms, {100 * (p / m - 1):+.1f} %</title></circle>"
        for m, p in zip(measured, predicted, strict=True)
    )
    body.append(f'<g class="s1">{dots}</g>')
    middle = left + side / 2
    body.append(
        f'<text x="{middle}" y="{floor + 36}" text-anchor="middle">measured, ms</text>'
        f'<text transform="translate(12 {margin + side / 2}) rotate(-90)" text-anchor="middle">'
        "predicted, ms</text>"
    )
    height = floor + bottom
    return (
        f'<svg class="scatter" viewBox="0 0 {_SIZE} {height}" role="img" '
        f'aria-label="Predicted over measured milliseconds">{"".join(body)}</svg>'
    )


def _colour(share: float) -> str:
    place = min(max(share, 0.0), 1.0) * (len(_COLOURS) - 1)
    index = min(int(place), len(_COLOURS) - 2)
    inside = place - index
    pairs = zip(_COLOURS[index], _COLOURS[index + 1], strict=True)
    red, green, blue = (round(a + inside * (b - a)) for a, b in pairs)
    return f"rgb({red},{green},{blue})"


def _short(value: float) -> str:
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}" if value >= 0.01 else f"{value:.4f}"
