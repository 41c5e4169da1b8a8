"""The report's page, see ``markup``."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from edgevision.benchmark import charts, markup
from edgevision.benchmark.report_schema import ComparisonSection, Report, read_report
from edgevision.files import write_atomic

_VERDICTS = {0: "Passed", 4: "Accuracy budget not met", 5: "Not faster than the baseline"}


def write_html(report: Report | Mapping[str, Any], path: str | Path) -> Path:
    """Write the page for ``report`` (or its values as in ``report.json``) to ``path``.

    Raises:
        InputError: the values are no report; says which field.
    """
    text = render_html(report if isinstance(report, Report) else read_report(report))
    write_atomic(Path(path), text.encode())
    return Path(path)


def write_report(report: Report, folder: Path) -> Path:
    """Write ``report.json`` and ``report.html`` into ``folder``; the path of the page."""
    write_atomic(folder / "report.json", report.to_bytes())
    return write_html(report, folder / "report.html")


def render_html(report: Report) -> str:
    """The page as text. Equal reports give equal pages."""
    sections = [
        _header(report),
        _candidates(report),
        _latency("Device latency", "Tensor in, tensor out.", report.latency),
        _latency(
            "End-to-end latency",
            "Image file in, prediction out: decoding, preprocessing, network, decoding of outputs.",
            report.end_to_end,
        ),
        _power(report),
        _conditions(report),
        _accuracy(report),
        _layers(report),
        _pruning(report),
        _quantization(report),
        _sizes(report),
        markup.facts("Environment", report.environment),
        _lineage(report),
    ]
    return markup.page(report.title, sections)


def _header(report: Report) -> str:
    verdict = report.verdict
    kind = "good" if verdict.passed else "bad"
    name = _VERDICTS.get(verdict.exit_code, f"Exit code {verdict.exit_code}")
    tiles = []
    if verdict.latency is not None:
        latency = verdict.latency
        tiles.append(
            markup.tile(
                f"{latency.ratio:.2f} times",
                "faster" if latency.low > 1 else "as fast, by the interval",
                f"{latency.baseline:.3f} → {latency.candidate:.3f} ms p50, "
                f"95 % interval {latency.low:.2f} to {latency.high:.2f}",
            )
        )
    if verdict.accuracy is not None:
        accuracy = verdict.accuracy
        tiles.append(
            markup.tile(
                f"{accuracy.candidate:.2f} %",
                f"{accuracy.metric} accuracy",
                f"FP32 {accuracy.baseline:.2f} %, drop {accuracy.drop:.2f} of "
                f"{accuracy.budget:g} points allowed, {accuracy.n_images:,} images",
            )
        )
    small, large = _sizes_by_role(report)
    if small and large:
        tiles.append(
            markup.tile(
                f"{large / small:.2f} times",
                "smaller",
                f"{markup.in_bytes(large)} → {markup.in_bytes(small)}",
            )
        )
    if report.model.macs is not None:
        before, after = report.model.macs
        tiles.append(
            markup.tile(
                f"{before / max(after, 1):.2f} times", "fewer MACs", f"{before:,} → {after:,}"
            )
        )
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in verdict.reasons)
    data = f" · data {escape(report.data.reference)}" if report.data else ""
    return (
        f'<header><p class="badge {kind}">{escape(name)}</p><h1>{escape(report.title)}</h1>'
        f"<p>{escape(report.model.task)} · model {escape(report.model.reference)}{data}"
        f" · target {escape(report.target)}</p>"
        f'<div class="tiles">{"".join(tiles)}</div>'
        + (f'<ul class="reasons {kind}">{reasons}</ul>' if reasons else "")
        + "</header>"
    )


def _candidates(report: Report) -> str:
    if not report.candidates:
        return ""
    rows = [
        (
            ("→ " if row.shipped else "") + row.name,
            f"{row.accuracy:.2f}",
            f"{row.drop:+.2f}",
            markup.number(row.latency_p50_ms),
            "" if row.ratio is None else f"{row.ratio:.2f} ({row.low:.2f} to {row.high:.2f})",
            "" if row.bytes is None else markup.in_bytes(row.bytes),
            row.note,
        )
        for row in report.candidates
    ]
    head = ("Network", "Accuracy %", "Drop", "p50 ms", "Times FP32", "Size", "")
    return markup.section("Candidates", markup.table(head, rows, numbers=(1, 2, 3, 4, 5)))


def _latency(title: str, note: str, section: ComparisonSection | None) -> str:
    if section is None:
        return ""
    rows = []
    for name, run in section.runs.items():
        ratio = section.ratios.get(name)
        rows.append(
            (
                name,
                markup.number(run.latency_p50_ms),
                markup.number(run.latency_p90_ms),
                markup.number(run.latency_p99_ms),
                markup.number(run.latency_mean_ms),
                f"{run.throughput:,.0f}",
                f"{run.samples:,}",
                "1"
                if ratio is None
                else f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})",
            )
        )
    head = ("Run", "p50 ms", "p90 ms", "p99 ms", "mean ms", "images/s", "samples", "times faster")
    parts = [f"<p>{escape(note)}</p>", markup.table(head, rows, numbers=range(1, 8))]
    parts += [charts.interval(r.value, r.low, r.high) for r in section.ratios.values()]
    if section.samples_ms:
        parts.append(
            f'<div class="pair">{charts.histogram(section.samples_ms)}'
            f"{charts.strip(section.samples_ms)}</div>"
        )
    protocol = section.protocol
    if protocol:
        parts.append(
            "<details><summary>How it was measured</summary>"
            "<p>Every round calls each run once, in random order, after a warm-up; the interval is "
            "a block bootstrap over the rounds.</p>" + markup.pairs(protocol) + "</details>"
        )
    return markup.section(title, "".join(parts))


def _power(report: Report) -> str:
    section = report.power
    if section is None or not section.runs:
        return ""
    rails = list(dict.fromkeys(name for run in section.runs.values() for name in run.rails))
    rows = []
    for name, run in section.runs.items():
        means = (run.rails[rail].mean_w if rail in run.rails else None for rail in rails)
        rows.append(
            (
                name,
                markup.number(run.mean_w, 2),
                markup.number(run.peak_w, 2),
                markup.number(run.millijoules_per_image, 2),
                f"{run.images:,}",
                *(markup.number(mean, 2) for mean in means),
            )
        )
    head = ("Run", "mean W", "peak W", "mJ/image", "images", *(f"{rail} W" for rail in rails))
    idle = "" if section.idle_w is None else f" Idle, before: {section.idle_w:.2f} W."
    note = (
        f"Total of {', '.join(section.total_of)}.{idle} Each run had the machine to itself; "
        "nothing is subtracted from its power."
    )
    return markup.section(
        "Power",
        f"<p>{escape(note)}</p>" + markup.table(head, rows, numbers=range(1, len(head))),
    )


def _conditions(report: Report) -> str:
    section = report.conditions
    if section is None:
        return ""
    notices = "".join(f"<li>{escape(notice)}</li>" for notice in section.notices)
    rows = [
        (name, *(f"{mhz:.0f}" for mhz in (c.lowest_mhz, c.mean_mhz, c.highest_mhz)))
        for name, c in section.clocks.items()
    ]
    head = ("Clock", "lowest MHz", "mean MHz", "highest MHz")
    heat = section.highest_c
    return markup.section(
        "Clocks and heat",
        (f'<ul class="reasons bad">{notices}</ul>' if notices else "")
        + (markup.table(head, rows, numbers=(1, 2, 3)) if rows else "")
        + ("" if heat is None else f"<p>Hottest: {heat:.1f} °C.</p>"),
    )


def _accuracy(report: Report) -> str:
    accuracy = report.verdict.accuracy
    if accuracy is None or not accuracy.per_class:
        return ""
    rows = []
    for label, (before, after) in accuracy.per_class.items():
        change = "" if before is None or after is None else f"{after - before:+.2f}"
        rows.append(
            f"<tr><td>{escape(label)}</td><td class=n>{markup.number(before, 2)}</td>"
            f"<td class=n>{markup.number(after, 2)}</td><td class=n>{change}</td>"
            f"<td class=wide>{charts.bar((before or 0) / 100, 0)}"
            f"{charts.bar((after or 0) / 100, 1)}</td></tr>"
        )
    head = "".join(
        f"<th{' class=n' if number in (1, 2, 3) else ''}>{text}</th>"
        for number, text in enumerate(("Class", "FP32 %", "Shipped %", "Change", ""))
    )
    return markup.section(
        "Accuracy by class",
        f"<div class=scroll><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>",
    )


def _layers(report: Report) -> str:
    if not report.layers:
        return ""
    noise = {row.name: row.sqnr_db for row in report.layers if row.sqnr_db is not None}
    chart = charts.lollipops(noise, "dB", "SQNR of each layer, it alone quantized, in graph order")
    rows = [
        (
            layer.name,
            layer.operator + (f" ({layer.trait})" if layer.trait else ""),
            layer.asked or "",
            layer.used,
            markup.number(layer.sqnr_db, 1),
            "" if layer.amax is None else f"{layer.amax:.4g}",
            "" if layer.saturated is None else f"{100 * layer.saturated:.3f}",
            markup.number(layer.time_ms),
            layer.reason or (f"in {layer.layer}" if layer.layer else ""),
        )
        for layer in report.layers
    ]
    head = ("Layer", "Operator", "Asked", "Used", "SQNR dB", "amax", "Clipped %", "ms", "Why")
    return markup.section("Layers", chart + markup.table(head, rows, numbers=(4, 5, 6, 7)))


def _pruning(report: Report) -> str:
    if report.pruning is None:
        return ""
    rows = [
        (row.layer, f"{row.before}", f"{row.after}", f"{100 * (1 - row.after / row.before):.0f} %")
        for row in report.pruning.rows
        if row.before
    ]
    head = ("Layer", "Channels before", "after", "removed")
    table = markup.table(head, rows, numbers=(1, 2, 3)) if rows else ""
    return markup.section("Pruning", markup.pairs(report.pruning.facts) + table)


def _quantization(report: Report) -> str:
    section = report.quantization
    if section is None:
        return ""
    facts = {"scheme": section.scheme, "calibration": section.method, **section.facts}
    left = list(section.left_in_float.items())
    table = markup.table(("Left in float", "Why"), left) if left else ""
    return markup.section("Quantization", markup.pairs(facts) + table)


def _sizes(report: Report) -> str:
    if not report.sizes:
        return ""
    rows = [(row.name, row.role or "", markup.in_bytes(row.bytes)) for row in report.sizes]
    return markup.section("Files", markup.table(("File", "Role", "Size"), rows, numbers=(2,)))


def _lineage(report: Report) -> str:
    if report.lineage is None:
        return ""
    return markup.facts("Lineage", report.lineage.model_dump(mode="json", exclude_none=True))


def _sizes_by_role(report: Report) -> tuple[int | None, int | None]:
    """Sizes of the shipped network and of the baseline, where both are listed."""
    roles = {row.role: row.bytes for row in reversed(report.sizes)}
    return roles.get("shipped"), roles.get("baseline")
