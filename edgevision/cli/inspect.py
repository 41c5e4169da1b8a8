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
    from edgevision.bundle import ArtifactEntry, Bundle, Manifest

_HELP = """Show a bundle's task, files with hashes, verdict and lineage; --layers its precisions.

Every hash is checked first.

Example:

  edgevision inspect bundle/ --layers
"""


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("inspect", help=_HELP)(_inspect)


def _inspect(
    bundle: Annotated[Path, typer.Argument(help="Folder or zip of a bundle.")],
    layers: Annotated[
        bool, typer.Option("--layers", help="Each layer's precision: asked for and used.")
    ] = False,
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
        table = Table(title=escape(path), title_justify="left")
        for name in ("layer", "operator", "asked", "used", "ms"):
            table.add_column(name, justify="right" if name == "ms" else "left")
        for row in rows:
            time = "" if row.time_ms is None else f"{row.time_ms:.4f}"
            table.add_row(escape(row.name), escape(row.operator), row.asked or "", row.used, time)
        console.print(table)


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
