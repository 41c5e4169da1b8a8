"""``edgevision build-engine``: an engine from a bundle or an ONNX file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from edgevision.cli._device import DeviceOption, machine_of
from edgevision.errors import UsageError

_HELP = """Build the engine of a target and put it into the bundle, or write it to a file.

A JSON file beside it says what it was built from and for, and the precision of every layer.

Examples:

  edgevision build-engine runs/demo/bundle --target rtx

  edgevision build-engine model.onnx --target rtx --compute-capability 86 --max-batch 8 \\
    --out model.engine

  edgevision build-engine bundle/ --target jetson-orin-nano --device ssh://me@nano

  edgevision build-engine bundle/ --target jetson-orin-nano --kit kit/

  edgevision build-engine model.onnx --target gpu --min-shapes images:1x3x320x320 \\
    --opt-shapes images:1x3x640x640 --max-shapes images:4x3x640x640
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
    min_shapes: Annotated[
        str | None,
        typer.Option(help="Smallest shape of each input, as in images:1x3x224x224,mask:1x224x224."),
    ] = None,
    opt_shapes: Annotated[str | None, typer.Option(help="Shapes to tune for.")] = None,
    max_shapes: Annotated[str | None, typer.Option(help="Largest shapes.")] = None,
    float_precision: Annotated[
        str | None,
        typer.Option(help="fp32 or fp16, of what is not INT8 in an ONNX file (default: target's)."),
    ] = None,
    workspace_mb: Annotated[
        int | None, typer.Option(min=1, help="Limit of the builder's scratch memory.")
    ] = None,
    builder_level: Annotated[
        int | None, typer.Option(help="0 (fastest build) to 5 (longest search for kernels).")
    ] = None,
    timing_cache: Annotated[
        Path | None,
        typer.Option(help="File for the builder's timings (default: one in the user's cache)."),
    ] = None,
    dla_core: Annotated[
        int | None, typer.Option(help="Run on this DLA core what it can, the rest on the GPU.")
    ] = None,
    sparsity: Annotated[
        bool, typer.Option("--sparsity", help="Use kernels for weights pruned 2:4.")
    ] = False,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Run on later versions of TensorRT too.")
    ] = False,
    hardware_compatible: Annotated[
        bool, typer.Option("--hardware-compatible", help="Run on every GPU from Ampere on.")
    ] = False,
    refit: Annotated[
        bool, typer.Option("--refit", help="Let the weights be exchanged later.")
    ] = False,
    weight_streaming: Annotated[
        bool, typer.Option("--weight-streaming", help="Let weights stay in host memory.")
    ] = False,
    device: DeviceOption = None,
    kit: Annotated[
        Path | None,
        typer.Option(help="Build nothing: write a folder from which a board builds, out of reach."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Engine file to write instead of into the bundle.")
    ] = None,
) -> None:
    from edgevision.backends.base import ShapeRange
    from edgevision.backends.shapes import parse_shapes
    from edgevision.cli._progress import Phases
    from edgevision.pipeline.engine import DEFAULT_BATCH, build_engine
    from edgevision.types import Precision

    if float_precision not in (None, "fp32", "fp16"):
        raise typer.BadParameter(f"'{float_precision}' is neither fp32 nor fp16")

    batch = None
    if (min_batch, opt_batch, max_batch) != (None, None, None):
        smallest = 1 if min_batch is None else min_batch
        tuned = smallest if opt_batch is None else opt_batch
        largest = max(DEFAULT_BATCH.max, tuned) if max_batch is None else max_batch
        batch = ShapeRange(smallest, tuned, largest)
    choices: dict[str, Any] = {
        "batch": batch,
        "shapes": parse_shapes(min_shapes, opt_shapes, max_shapes),
        "float_precision": Precision(float_precision) if float_precision else None,
        "workspace_mb": workspace_mb,
        "builder_level": builder_level,
        "dla_core": dla_core,
        "sparsity": sparsity,
        "version_compatible": version_compatible,
        "hardware_compatible": hardware_compatible,
        "refit": refit,
        "weight_streaming": weight_streaming,
    }
    console = Console()
    if kit is not None:
        if device or out or timing_cache or compute_capability:
            raise UsageError(
                "--kit goes without --device, --out, --timing-cache and --compute-capability: the "
                "board builds by itself, for itself."
            )
        from edgevision.kit import write_kit

        write_kit(source, target, kit, **choices)
        console.print(f"Kit: {kit}", highlight=False, markup=False, soft_wrap=True)
        console.print(
            "On the board: sh build.sh; what to do with its result: README.txt in the kit"
        )
        return
    with machine_of(device) as machine, Phases(console) as phases:
        result = build_engine(
            source,
            target,
            out=out,
            compute_capabilities=compute_capability or (),
            timing_cache=timing_cache,
            machine=machine,
            progress=phases,
            **choices,
        )
    layers = Counter((layer.operator, layer.precision) for layer in result.layers)
    table = Table(title="Layers of the engine")
    for column in ("Operator", "Precision", "Layers"):
        table.add_column(column, justify="right" if column == "Layers" else "left")
    for (operator, precision), count in sorted(layers.items()):
        table.add_row(operator, precision, str(count))
    if layers:
        console.print(table)
    fallback = result.sidecar.get("dla_fallback", ())
    if fallback:
        console.print(f"On the GPU, not the DLA: {', '.join(fallback)}", soft_wrap=True)
    console.print(f"Engine: {result.place}", highlight=False, soft_wrap=True)
