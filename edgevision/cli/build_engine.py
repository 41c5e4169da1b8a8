"""``edgevision build-engine``: an engine from a bundle or an ONNX file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

_HELP = """Build the engine of a target and put it into the bundle, or write it to a file.

A JSON file beside it says what it was built from and for, and the precision of every layer.

Examples:

  edgevision build-engine runs/demo/bundle --target rtx

  edgevision build-engine model.onnx --target rtx --compute-capability 86 --max-batch 8 \\
    --out model.engine
"""


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("build-engine", help=_HELP)(_build_engine)


def _build_engine(
    source: Annotated[Path, typer.Argument(help="Bundle (folder or zip) or ONNX file.")],
    target: Annotated[str, typer.Option(help="Target name, see `edgevision targets`.")],
    compute_capability: Annotated[
        list[str] | None,
        typer.Option(help="SM to build for, e.g. 86; may be given more than once."),
    ] = None,
    min_batch: Annotated[int | None, typer.Option(help="Smallest batch (default 1).")] = None,
    opt_batch: Annotated[
        int | None, typer.Option(help="Batch to tune for (default the smallest).")
    ] = None,
    max_batch: Annotated[
        int | None, typer.Option(help="Largest batch (default 32, or what the graph is fixed to).")
    ] = None,
    workspace_mb: Annotated[
        int | None, typer.Option(min=1, help="Limit of the builder's scratch memory.")
    ] = None,
    timing_cache: Annotated[
        Path | None, typer.Option(help="File to read and keep the builder's timings in.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Engine file to write instead of into the bundle.")
    ] = None,
) -> None:
    from edgevision.backends.base import ShapeRange
    from edgevision.cli._progress import Phases
    from edgevision.pipeline.engine import DEFAULT_BATCH, build_engine

    batch = None
    if (min_batch, opt_batch, max_batch) != (None, None, None):
        smallest = 1 if min_batch is None else min_batch
        tuned = smallest if opt_batch is None else opt_batch
        largest = max(DEFAULT_BATCH.max, tuned) if max_batch is None else max_batch
        batch = ShapeRange(smallest, tuned, largest)
    console = Console()
    with Phases(console) as phases:
        result = build_engine(
            source,
            target,
            out=out,
            batch=batch,
            compute_capabilities=compute_capability or (),
            workspace_mb=workspace_mb,
            timing_cache=timing_cache,
            progress=phases,
        )
    layers = Counter((layer.operator, layer.precision) for layer in result.layers)
    table = Table(title="Layers of the engine")
    for column in ("Operator", "Precision", "Layers"):
        table.add_column(column, justify="right" if column == "Layers" else "left")
    for (operator, precision), count in sorted(layers.items()):
        table.add_row(operator, precision, str(count))
    if layers:
        console.print(table)
    console.print(f"Engine: {result.place}", highlight=False, soft_wrap=True)
