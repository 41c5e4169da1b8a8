"""``edgevision import-kit``: the engine that a kit built on its board."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from edgevision.kit import Imported

_HELP = """Take back what a kit built and measured on a board that cannot be reached.

The kit is of `edgevision build-engine … --kit FOLDER`; there `sh build.sh` writes result.tar.gz. It
is checked against its kit and the bundle; the engine goes into the bundle, or into a file with a
JSON beside it. An engine is native code: take results from boards you trust alone.

Examples:

  edgevision import-kit result.tar.gz --bundle bundle/

  edgevision import-kit result.tar.gz --out model.engine
"""


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("import-kit", help=_HELP)(_import_kit)


def _import_kit(
    result: Annotated[Path, typer.Argument(help="result.tar.gz or the folder result of a kit.")],
    bundle: Annotated[
        Path | None, typer.Option(help="Folder or zip of the bundle that the kit was made of.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Engine file to write.")] = None,
) -> None:
    from edgevision.kit import import_kit

    imported = import_kit(result, bundle=bundle, out=out)
    console = Console()
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _rows(imported):
        table.add_row(name, escape(value))
    console.print(table)
    for notice in imported.found.notices:
        console.print(f"[yellow]Note:[/] {escape(notice)}", highlight=False, soft_wrap=True)
    console.print(f"Engine: {imported.place}", highlight=False, markup=False, soft_wrap=True)


def _rows(imported: Imported) -> list[tuple[str, str]]:
    sidecar, times = imported.found.sidecar, imported.found.times
    device = sidecar["device"]
    layers = Counter(layer.precision for layer in imported.found.layers)
    rows = [
        ("Target", sidecar["target"]),
        ("Device", _device(device)),
        ("TensorRT", sidecar["version"]),
        ("Power mode", f"{device.get('power_mode') or 'unknown'}; {_clocks(device)}"),
        ("Build time", f"{sidecar['build_seconds']:.0f} s"),
        ("Layers", ", ".join(f"{count} {name}" for name, count in sorted(layers.items()))),
    ]
    batch = sidecar["batch"]["opt"]
    said = f"p50, p99 of {times.queries:,} queries of batch {batch}"
    for name, metric in times.metrics.items():
        rows.append((f"trtexec: {name}", f"{metric.p50_ms:.3f}, {metric.p99_ms:.3f} ms ({said})"))
    if "dla_fallback" in sidecar:
        rows.append(("On the GPU, not the DLA", ", ".join(sidecar["dla_fallback"]) or "nothing"))
    return rows


def _device(device: dict[str, Any]) -> str:
    release = f", L4T {device['l4t']}, JetPack {device['jetpack']}" if device.get("l4t") else ""
    return f"{device.get('name') or device['gpu'] or 'unknown'}{release}"


def _clocks(device: dict[str, Any]) -> str:
    locked = device.get("clocks_locked")
    if locked is None:
        return "whether clocks were locked is unknown"
    return "clocks locked" if locked else "clocks followed the load"
