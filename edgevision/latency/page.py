"""The page of a network's times: one HTML file, measured or, in words, an estimate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from edgevision.benchmark import charts as bars
from edgevision.benchmark import markup
from edgevision.latency import charts
from edgevision.latency.curves import GroupCurve
from edgevision.latency.estimate import WORD
from edgevision.latency.grid import HeatMap
from edgevision.latency.record import WidthTimes

_LAYERS = 24  # that the page names
_NEVER = (
    f"This is an {WORD}, not a measurement: no layer ran on the device. It is a roofline "
    "figure of one module at its published peak and memory bandwidth, and no bound either way: "
    "launches, idle units, conversions and lower power modes take longer, often several times; "
    "values that stay in a cache and additions that are fused into layers take less. Use it to see "
    "which layers weigh most and where time steps; measure on the device before you promise "
    "anything."
)


@dataclass(frozen=True)
class ProfilePage:
    """What is shown.

    Attributes:
        model, target, precision: for the title.
        whole_ms: of the whole network.
        tile: that channel counts are rounded up to.
        curves: of the groups.
        by_layer: milliseconds of each layer.
        maps: heat maps.
        times: what was measured; None for an estimate.
        predicted: of each measured network by the fit without it.
        source: of an estimate's peak, with the module that it is of; None where times are measured.
        facts: of the machine, or of the target's peak.
    """

    model: str
    target: str
    precision: str
    whole_ms: float
    tile: int
    curves: Sequence[GroupCurve]
    by_layer: Mapping[str, float]
    maps: Sequence[HeatMap]
    times: WidthTimes | None
    predicted: Sequence[float]
    source: str | None
    facts: Mapping[str, Any]

    @property
    def errors(self) -> list[float]:
        """Relative error of each network left out; empty for an estimate."""
        measured = self.times.milliseconds if self.times else ()
        return [abs(p / m - 1) for p, m in zip(self.predicted, measured, strict=True)]


def render(shown: ProfilePage) -> str:
    """The page as text; equal values give equal pages."""
    title = f"Time of {shown.model} on {shown.target}"
    return markup.page(
        title if shown.times else f"{WORD}: {title}",
        [
            _header(shown, title),
            _maps(shown),
            _groups(shown),
            _layers(shown),
            _prediction(shown),
            markup.facts("How it was measured" if shown.times else "What it rests on", shown.facts),
        ],
        charts.CSS,
    )


def _header(shown: ProfilePage, title: str) -> str:
    errors = shown.errors
    tiles = [
        markup.tile(
            f"{shown.whole_ms:.3f} ms" if shown.times else f"{WORD}: {shown.whole_ms:.3f} ms",
            "the whole network",
            f"{shown.precision}, batch 1, "
            + ("the least of many calls" if shown.times else f"at the peak of: {shown.source}"),
        ),
        markup.tile(
            f"{shown.tile} channels" if shown.tile > 1 else "none",
            "tile",
            "channel counts cost as much as the next multiple"
            + (", by the fit" if shown.times else ", by the target's data"),
        ),
    ]
    if errors:
        tiles.append(
            markup.tile(
                f"{100 * sum(errors) / len(errors):.1f} %",
                "mean error of predictions",
                f"worst {100 * max(errors):.1f} %, of {len(errors)} networks, each left out",
            )
        )
    if shown.curves:
        top = shown.curves[0]
        tiles.append(
            markup.tile(
                f"{100 * top.saved / shown.whole_ms:.0f} %",
                "can be saved at one group",
                f"{top.name}: {top.saved:.3f} ms from {top.units[0]} to {top.units[-1]} units",
            )
        )
    kind, badge = ("measured", "Measured") if shown.times else ("estimate", WORD)
    warning = "" if shown.times else f'<p class="warning">{escape(_NEVER)}</p>'
    return (
        f'<header><p class="badge {kind}">{badge}</p><h1>{escape(title)}</h1>{warning}'
        f'<div class="tiles">{"".join(tiles)}</div></header>'
    )


def _maps(shown: ProfilePage) -> str:
    if not shown.maps:
        return ""
    figures = []
    for found in shown.maps:
        origin = ""
        if found.kept:
            cells = sum(map(len, found.milliseconds))
            origin = f" {found.kept} of {cells} cells kept, the oldest of {found.oldest}."
        figures.append(
            f"<figure><h3>{escape(found.kind)}</h3>"
            f"<p>up to the width of {escape(found.layer)} (outlined).{escape(origin)}</p>"
            f"{charts.heat_map(found)}<figcaption>{charts.scale(found)}</figcaption></figure>"
        )
    note = (
        "The time of one layer alone, each map in turns. Cells of like colour side by side are "
        "a step: narrowing inside it saves nothing, and a count off the tile may even take longer. "
        "In float the time holds the changes of "
        "layout around the layer; predictions do not come from here but from whole networks."
        if shown.times
        else f"The time of one layer, {WORD} by peak and bandwidth, in tiles of {shown.tile}."
    )
    return markup.section(
        "Layers over channels",
        f"<p>{note} A kind is operator, positions of its output, kernel/stride; the "
        "kinds with the largest share of time or multiplications come first.</p>"
        f'<div class="maps">{"".join(figures)}</div>',
    )


def _groups(shown: ProfilePage) -> str:
    rows = []
    factor, unit = charts.unit_of(shown.whole_ms)
    most = max((curve.saved for curve in shown.curves), default=0.0) or 1.0
    idle = [curve.name for curve in shown.curves if curve.saved <= 0]
    for curve in shown.curves:
        if curve.saved <= 0:
            continue
        step = curve.units[0] - curve.units[1] if len(curve.units) > 1 else 0
        first, best = next(iter(curve.steps), 0.0), max(curve.steps, default=0.0)
        saved = "".join(
            f"<td class=n>{_three(factor * value)}</td>" for value in (first, best, curve.saved)
        )
        rows.append(
            f"<tr><td>{escape(curve.name)}</td><td class=n>{curve.units[0]}</td>"
            f"<td class=n>{step}</td>{saved}"
            f"<td class=n>{100 * curve.saved / shown.whole_ms:.1f} %</td>"
            f"<td class=bars>{bars.bar(curve.saved / most, 1)}</td>"
            f"<td>{charts.stairs(curve)}</td></tr>"
        )
    head = "".join(
        f"<th{' class=n' if 0 < number < 7 else ''}>{text}</th>"
        for number, text in enumerate(
            ("Group", "Units", "Step", f"First step {unit}", f"Best step {unit}",
             f"All steps {unit}", "Of the whole", "", "Time over width")
        )
    )  # fmt: skip
    return markup.section(
        "Groups: what narrowing saves",
        "<p>What each group saves of the network's time by itself, all others whole: its "
        "first step, its best step, and down to its narrowest. Time over width runs from the "
        "narrowest to the whole group.</p>"
        f"<div class=scroll><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        + (f"<p>Nothing by themselves: {escape(', '.join(idle))}.</p>" if idle else ""),
    )


def _layers(shown: ProfilePage) -> str:
    order = sorted(shown.by_layer.items(), key=lambda pair: -pair[1])
    order = [(name, milliseconds) for name, milliseconds in order if milliseconds > 0]
    if not order:
        return ""
    total = shown.whole_ms
    factor, unit = charts.unit_of(total)
    named, rest = order[:_LAYERS], order[_LAYERS:]
    listed = [*named]
    if rest:
        listed.append((f"{len(rest)} more", sum(milliseconds for _, milliseconds in rest)))
    outside = total - sum(shown.by_layer.values())
    if shown.times and outside > 0:
        listed.append(("whatever the widths", outside))
    top = max(milliseconds for _, milliseconds in listed)
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td class=n>{_three(factor * milliseconds)}</td>"
        f"<td class=n>{100 * milliseconds / total:.1f} %</td>"
        f"<td class=bars>{bars.bar(milliseconds / top, 1)}</td></tr>"
        for name, milliseconds in listed
    )
    note = (
        "Inferred from whole networks, so layers that always widen together share their time as "
        "the fit found best; only what widths move is told apart."
        if shown.times
        else f"{WORD}: the longer of multiplications at peak and bytes at bandwidth."
    )
    return markup.section(
        "Layers",
        f"<p>{note}</p><div class=scroll><table><thead><tr><th>Layer</th>"
        f"<th class=n>{unit}</th><th class=n>Share</th><th></th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>",
    )


def _prediction(shown: ProfilePage) -> str:
    if shown.times is None:
        return ""
    errors = shown.errors
    return markup.section(
        "Predicted against measured",
        f"<p>{len(errors)} whole networks at random widths, each predicted by a fit that has not "
        f"seen it: mean error {100 * sum(errors) / len(errors):.1f} %, worst "
        f"{100 * max(errors):.1f} %.</p>"
        + charts.scatter(shown.times.milliseconds, shown.predicted),
    )


def _three(value: float) -> str:
    """Three digits, as many behind the point as that takes."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
