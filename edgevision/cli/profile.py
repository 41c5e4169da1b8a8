"""``edgevision profile``: where a network's time goes on a target, at every width it could have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgevision.cli._device import DeviceOption, machine_of

if TYPE_CHECKING:
    from edgevision.pipeline.profile import ProfileResult

_GROUPS = 8  # that the table names

_HELP = """Show where a network's time goes on a target, and what narrowing each group would save.

Whole networks at random widths are timed in turns as they would ship, and single layers over their
channels. Writes latency.json, maps.json and profile.html. Times are kept in the user's cache folder
and used again, by --prune-speedup too if --data was given. What cannot be timed here is estimated
where the target's description says how fast it is, and marked ESTIMATE throughout.

Examples:

  edgevision profile timm:mobilenetv2_100 --target cpu

  edgevision profile fastnet --data cifar10 --precision fp32 --threads 2 --fresh

  edgevision profile timm:resnet18 --target jetson-orin-nano

  edgevision profile fastnet --target cpu --device ssh://me@board
"""


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("profile", help=_HELP)(_profile)


def _profile(
    model: Annotated[
        str,
        typer.Argument(
            help="timm or torchvision name, own family, file.py:factory or checkpoint; "
            "weights do not matter."
        ),
    ],
    target: Annotated[
        str, typer.Option(help="Target name (see `edgevision targets`) or YAML file.")
    ] = "cpu",
    data: Annotated[
        str | None, typer.Option(help="Gives classes and input size; without it noise is fed.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=1, help="Height and width in pixels (default: its own).")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="int8 or fp32, of an estimate fp16 too (default: what would ship)."),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(min=0.1, help="Measured over all whole networks (default 40)."),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    device: DeviceOption = None,
    maps: Annotated[
        int, typer.Option(min=0, help="Kinds of layers with a heat map, heaviest first.")
    ] = 8,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Measure again what earlier runs kept.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder to write (default runs/…).")] = None,
) -> None:
    from edgevision.cli._progress import Phases
    from edgevision.pipeline.profile import profile

    with machine_of(device) as machine, Phases(Console(stderr=True)) as progress:
        result = profile(
            model,
            target=target,
            data=data,
            size=size,
            precision=precision,
            seconds=seconds,
            threads=threads,
            maps=maps,
            out=out,
            fresh=fresh,
            machine=machine,
            progress=progress,
        )
    console = Console()
    for line in _summary(result):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(_table(result))
    console.print(f"Page: {result.page}", highlight=False, soft_wrap=True)


def _summary(result: ProfileResult) -> list[str]:
    if result.times is None:
        return [
            "[bold yellow]ESTIMATE[/], nothing was measured: a roofline figure, no bound. Real "
            "networks mostly take longer, often several times.",
            f"Not timed here: {escape(result.untimed or '')}",
            f"Whole network: estimate [bold]{result.whole_ms:.3f} ms[/] by peak and bandwidth, "
            f"{result.precision} on {result.target}; tile {result.model.tile} channels, "
            "by the target's data.",
            f"Peak: {escape(result.source or '')}.",
        ]
    mean, worst = result.errors or (0.0, 0.0)
    times = result.times
    load = "" if times.load is None else f", load {times.load:.1f} when it began"
    tile = f"{result.model.tile} channels" if result.model.tile > 1 else "none"
    return [
        f"Whole network: [bold]{result.whole_ms:.3f} ms[/], {result.precision} on {result.target} "
        f"({escape(times.backend)}), the least of many calls.",
        f"Tile by the fit: {tile}. Predictions of {len(times.kept)} networks left out: mean error "
        f"{100 * mean:.1f} %, worst {100 * worst:.1f} %.",
        f"Measured {times.measured}{load}.",
    ]


def _table(result: ProfileResult) -> Table:
    word = "ESTIMATE: groups" if result.is_estimate else "Groups"
    table = Table(title=f"{word} that cost most", title_justify="left")
    table.add_column("Group", overflow="fold", min_width=16)
    # In two lines each: beside a group's name seven columns fit 80 characters no other way.
    headers = ("units", "step", "first\nstep ms", "best\nstep ms", "all\nsteps ms", "of the\nwhole")
    for name in headers:
        table.add_column(name, justify="right", no_wrap=True)
    for curve in result.curves[:_GROUPS]:
        step = curve.units[0] - curve.units[1] if len(curve.units) > 1 else 0
        table.add_row(
            escape(curve.name),
            str(curve.units[0]),
            str(step),
            f"{next(iter(curve.steps), 0.0):.4f}",
            f"{max(curve.steps, default=0.0):.4f}",
            f"{curve.saved:.4f}",
            f"{100 * curve.saved / result.whole_ms:.1f} %",
        )
    if len(result.curves) > _GROUPS:
        table.caption = f"{len(result.curves) - _GROUPS} more on the page."
    return table
