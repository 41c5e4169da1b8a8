"""``edgevision inspect``: what a bundle holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from edgevision.benchmark.report_schema import LayerRow
    from edgevision.bundle import ArtifactEntry, Bundle, Manifest

_HELP = """Show a bundle's task, files with hashes, verdict and lineage; --layers its precisions.

Every hash is checked first. --layers shows of each layer the precision asked for and used, its SQNR
with it alone quantized, amax and clipped share of what it reads, its time, and the reason where
INT8 was asked for and not used, or not asked for.

Examples:

  edgevision inspect bundle/ --layers

  edgevision inspect bundle/ --layers --worst 10
"""
# Worse than this is shown in colour: SQNR in dB, share of clipped values.
_LOW_SQNR = 20.0
_HIGH_SHARE = 0.001


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("inspect", help=_HELP)(_inspect)


def _inspect(
    bundle: Annotated[Path, typer.Argument(help="Folder or zip of a bundle.")],
    layers: Annotated[
        bool, typer.Option("--layers", help="Each layer's precision: asked for and used.")
    ] = False,
    worst: Annotated[
        int | None, typer.Option("--worst", min=1, help="With --layers: the noisiest N alone.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    from edgevision.bundle import open_bundle
    from edgevision.pipeline.layers import bundle_layers

    console = Console()
    with open_bundle(bundle) as opened:
        found = bundle_layers(opened) if layers else {}
        if as_json:
            values: dict[str, Any] = opened.manifest.model_dump(mode="json")
            if layers:
                values["layers"] = {
                    path: [row.model_dump(mode="json") for row in rows]
                    for path, rows in found.items()
                }
            typer.echo(json.dumps(values, indent=1, sort_keys=True))
            return
        _show(console, opened)
    for path, rows in found.items():
        chosen = rows if worst is None else _worst(rows, worst)
        console.print(_layer_table(path, chosen), highlight=False)
        for line in _reasons(chosen):
            console.print(line, style="dim", highlight=False)


def _worst(rows: list[LayerRow], count: int) -> list[LayerRow]:
    measured = [(row.sqnr_db, row) for row in rows if row.sqnr_db is not None]
    return [row for _, row in sorted(measured, key=lambda pair: pair[0])[:count]]


def _layer_table(path: str, rows: list[LayerRow]) -> Table:
    """One line a layer; what the backend added by itself is dim."""
    table = Table(title=escape(path), title_justify="left", box=None, pad_edge=False)
    for name in ("layer", "operator", "asked", "used"):
        table.add_column(name, overflow="fold", no_wrap=name in ("asked", "used"))
    for name in ("SQNR dB", "amax", "clipped", "ms"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        refused = row.asked == "int8" and row.used not in ("", "int8")
        table.add_row(
            escape(row.name) if row.asked else f"[dim]{escape(row.name)}[/dim]",
            escape(row.operator) + (f" [dim]({escape(row.trait)})[/dim]" if row.trait else ""),
            row.asked or "",
            f"[red]{escape(row.used)}[/red]" if refused else escape(row.used),
            _marked(row.sqnr_db, "{:.1f}", row.sqnr_db is not None and row.sqnr_db < _LOW_SQNR),
            _marked(row.amax, "{:.4g}", False),
            _marked(row.saturated, "{:.3%}", (row.saturated or 0) > _HIGH_SHARE),
            _marked(row.time_ms, "{:.4f}", False),
        )
    return table


def _reasons(rows: list[LayerRow]) -> list[str]:
    """Each reason once, with the layers that it holds for."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row.reason:
            found.setdefault(row.reason, []).append(row.name)
    return [escape(f"{', '.join(names)}: {reason}") for reason, names in found.items()]


def _marked(value: float | None, form: str, bad: bool) -> str:
    text = "" if value is None else form.format(value)
    return f"[red]{text}[/red]" if bad else text


def _show(console: Console, bundle: Bundle) -> None:
    manifest = bundle.manifest
    facts = Table(show_header=False, box=None)
    labels = ", ".join(manifest.labels[:12]) + (" …" if len(manifest.labels) > 12 else "")
    for name, value in (
        ("task", manifest.task),
        ("target", manifest.target),
        ("labels", f"{len(manifest.labels)}: {labels}"),
        ("inputs", "; ".join(str(entry.spec()) for entry in manifest.inputs)),
        ("outputs", "; ".join(str(entry.spec()) for entry in manifest.outputs)),
        ("preprocessing", _preprocessing(manifest)),
        ("model", manifest.lineage.model),
        ("data", manifest.lineage.data or "unknown"),
        ("verdict", _verdict(manifest)),
    ):
        facts.add_row(name, escape(value))
    console.print(facts, soft_wrap=True, highlight=False)
    table = Table(title="Files, every hash checked", title_justify="left")
    for name in ("path", "what", "bytes", "sha256"):
        table.add_column(name, justify="right" if name == "bytes" else "left", overflow="fold")
    for entry in manifest.artifacts:
        if entry.kind == "golden":
            continue
        table.add_row(
            escape(entry.path),
            escape(_what(entry)),
            f"{entry.size:,}",
            entry.sha256[:12],
        )
    golden = [entry.size for entry in manifest.artifacts if entry.kind == "golden"]
    if golden:
        table.add_row(f"golden/ ({len(golden)} files)", "golden", f"{sum(golden):,}", "")
    console.print(table)


def _what(entry: ArtifactEntry) -> str:
    """Kind, role, precision and scheme, as far as a file has them."""
    parts = (entry.kind, entry.role, entry.precision, entry.scheme)
    return " ".join(part for part in parts if part)


def _preprocessing(manifest: Manifest) -> str:
    values = manifest.preprocess()
    return (
        f"{values.color} {values.height}x{values.width}, {values.resize}, {values.interpolation}, "
        f"mean {_short(values.mean)}, std {_short(values.std)}"
    )


def _short(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.4g}" for value in values)


def _verdict(manifest: Manifest) -> str:
    verdict = manifest.verdict
    if verdict is None:
        return "none: nothing was proven"
    parts = ["passed" if verdict.passed else f"not passed (exit code {verdict.exit_code})"]
    if (accuracy := verdict.accuracy) is not None:
        parts.append(
            f"{accuracy.metric} {accuracy.baseline:.2f} → {accuracy.candidate:.2f} % over "
            f"{accuracy.n_images} images (drop {accuracy.drop:.2f} of {accuracy.budget:g})"
        )
    if (latency := verdict.latency) is not None:
        parts.append(
            f"p50 {latency.baseline:.3f} → {latency.candidate:.3f} ms, {latency.ratio:.2f} times "
            f"({latency.low:.2f} to {latency.high:.2f})"
        )
    return "; ".join([*parts, *verdict.reasons])
