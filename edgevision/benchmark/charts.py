"""Small inline SVG charts for the report. Numbers in, markup out; no scripts, no fonts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

_WIDTH, _HEIGHT = 480, 180
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 30
_BINS = 48
_DOTS = 400  # of a run in the strip: more cannot be told apart


def histogram(samples: Mapping[str, Sequence[float]]) -> str:
    """Distributions of several runs over one axis of milliseconds.

    The axis ends at four times the largest median at the latest; the last bar holds what lies
    beyond. It is logarithmic where the medians lie more than six times apart.
    """
    data = {name: np.asarray(values) for name, values in samples.items() if len(values)}
    if not data:
        return ""
    low = min(float(values.min()) for values in data.values())
    high = _end(data, 4)
    medians = [float(np.median(values)) for values in data.values()]
    logarithmic = max(medians) > 6 * min(medians)
    if high <= low:
        high = low * 1.01 + 1e-9
    edges = np.geomspace(low, high, _BINS + 1) if logarithmic else np.linspace(low, high, _BINS + 1)
    shares = {
        name: np.histogram(np.minimum(values, high), edges)[0] / len(values)
        for name, values in data.items()
    }
    tallest = max(float(share.max()) for share in shares.values()) or 1.0
    step = (_WIDTH - _LEFT - _RIGHT) / _BINS
    body = []
    for number, (name, share) in enumerate(shares.items()):
        bars = "".join(
            f'<rect x="{_LEFT + i * step:.1f}" y="{_y(value / tallest):.1f}" '
            f'width="{step - 0.6:.1f}" height="{_y(0) - _y(value / tallest):.1f}"/>'
            for i, value in enumerate(share)
            if value
        )
        body.append(f'<g class="s{number % 4}"><title>{escape(name)}</title>{bars}</g>')
    for place in range(5):
        at = place / 4
        value = low * (high / low) ** at if logarithmic else low + at * (high - low)
        body.append(_tick(_LEFT + at * (_WIDTH - _LEFT - _RIGHT), f"{_short(value)} ms"))
    body.append(_axis())
    scale = ", logarithmic" if logarithmic else ""
    return _figure("".join(body), list(data), f"Share of the samples by latency{scale}")


def strip(samples: Mapping[str, Sequence[float]]) -> str:
    """Samples in the order of measuring, so that drift shows; outliers lie on the upper edge."""
    data = {name: np.asarray(values) for name, values in samples.items() if len(values)}
    if not data:
        return ""
    high = _end(data, 6) * 1.08
    body = []
    for number, (name, values) in enumerate(data.items()):
        index = np.unique(np.linspace(0, len(values) - 1, min(_DOTS, len(values))).astype(int))
        span = max(1, len(values) - 1)
        dots = "".join(
            f'<circle cx="{_LEFT + i / span * (_WIDTH - _LEFT - _RIGHT):.1f}" '
            f'cy="{_y(min(1.0, values[i] / high)):.1f}" r="1.7"/>'
            for i in index
        )
        body.append(f'<g class="s{number % 4}"><title>{escape(name)}</title>{dots}</g>')
    for at in (0.0, 0.5, 1.0):
        body.append(
            f'<text x="{_LEFT - 6}" y="{_y(at) + 4:.1f}" text-anchor="end">'
            f"{_short(at * high)}</text>"
        )
    body.append(_tick(_LEFT + 14, "start"))
    body.append(_tick(_WIDTH - _RIGHT - 12, "end"))
    body.append(_axis())
    return _figure("".join(body), list(data), "Latency in ms, in the order of measuring")


def lollipops(values: Mapping[str, float], unit: str, caption: str) -> str:
    """One value a name, in the given order, as points over an axis from the least to the greatest.

    Names are shown by hovering and for the three smallest values, which are marked.
    """
    if not values:
        return ""
    low, high = min(0.0, *values.values()), max(values.values())
    span = (high - low) or 1.0
    step = (_WIDTH - _LEFT - _RIGHT) / len(values)
    worst = sorted(values, key=lambda name: values[name])[:3]
    body = []
    for number, (name, value) in enumerate(values.items()):
        x, y = _LEFT + (number + 0.5) * step, _y((value - low) / span)
        body.append(
            f'<g class="s{int(name in worst)}"><title>{escape(name)}: {_short(value)} {unit}'
            f'</title><line x1="{x:.1f}" x2="{x:.1f}" y1="{_y(0):.1f}" y2="{y:.1f}" '
            f'stroke="currentColor" opacity="0.3"/>'
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{min(3.0, max(1.2, step / 3)):.1f}"/></g>'
        )
    for at in (0.0, 0.5, 1.0):
        body.append(
            f'<text x="{_LEFT - 6}" y="{_y(at) + 4:.1f}" text-anchor="end">'
            f"{_short(low + at * span)}</text>"
        )
    body += [_tick(_LEFT + 14, "first"), _tick(_WIDTH - _RIGHT - 12, "last"), _axis()]
    names = ", ".join(f"{name} {_short(values[name])} {unit}" for name in worst)
    return _figure("".join(body), [], f"{caption}; lowest: {names}")


def interval(value: float, low: float, high: float) -> str:
    """The ratio and its 95 % interval on an axis that shows 1, "as fast as the baseline"."""
    left, right = min(0.8, low * 0.92), max(1.2, high * 1.08)

    def x(at: float) -> float:
        return _LEFT + (at - left) / (right - left) * (_WIDTH - _LEFT - _RIGHT)

    body = (
        f'<line class="axis" x1="{x(left):.1f}" x2="{x(right):.1f}" y1="34" y2="34"/>'
        f'<line class="one" x1="{x(1):.1f}" x2="{x(1):.1f}" y1="12" y2="44"/>'
        f'<text x="{x(1):.1f}" y="58" text-anchor="middle">1: as the baseline</text>'
        f'<g class="s1"><rect x="{x(low):.1f}" y="28" width="{max(2.0, x(high) - x(low)):.1f}" '
        f'height="12" rx="3" opacity="0.45"/><circle cx="{x(value):.1f}" cy="34" r="5"/></g>'
        f'<text x="{min(x(value), _WIDTH - 110):.1f}" y="20" text-anchor="middle" class="strong">'
        f"{value:.2f} times ({low:.2f} to {high:.2f})</text>"
    )
    return (
        f'<svg class="interval" viewBox="0 0 {_WIDTH} 66" role="img" '
        f'aria-label="Speed ratio {value:.2f}, 95 % interval {low:.2f} to {high:.2f}">{body}</svg>'
    )


def bar(share: float, series: int) -> str:
    """A bar of ``share`` (0 to 1) of a table cell's width."""
    width = 100 * min(1.0, max(0.0, share))
    return f'<span class="bar"><span class="b{series}" style="width:{width:.1f}%"></span></span>'


def _end(data: Mapping[str, np.ndarray[Any, Any]], medians: float) -> float:
    """Where the axis of latencies ends: rare outliers must not squeeze the rest together."""
    return max(
        min(float(np.percentile(values, 99.5)), medians * float(np.median(values)))
        for values in data.values()
    )


def _y(share: float) -> float:
    return _TOP + (1 - share) * (_HEIGHT - _TOP - _BOTTOM)


def _tick(x: float, text: str) -> str:
    anchor = "end" if x > _WIDTH - 60 else "middle"
    return f'<text x="{x:.1f}" y="{_HEIGHT - 10}" text-anchor="{anchor}">{escape(text)}</text>'


def _axis() -> str:
    return f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{_y(0)}" y2="{_y(0)}"/>'


def _figure(body: str, names: list[str], caption: str) -> str:
    keys = "".join(
        f'<span class="key"><i class="b{number % 4}"></i>{escape(name)}</span>'
        for number, name in enumerate(names)
    )
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(caption)}">{body}</svg>'
        f"<figcaption>{escape(caption)} {keys}</figcaption></figure>"
    )


def _short(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"
