"""``edgevision targets``: the devices to compress for, and what works here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgevision.types import Availability

if TYPE_CHECKING:
    from edgevision.pipeline.survey import TargetStatus

_HELP = """List the targets: backend, scheme, and whether engines are built and run here.

A file of your own with the same fields works wherever a target's name does.

Examples:

  edgevision targets

  edgevision targets jetson-orin-nano@6.2
"""


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("targets", help=_HELP)(_targets)


def _targets(
    name: Annotated[
        str | None, typer.Argument(help="Show every field of this one, or of a YAML file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    from edgevision.pipeline.survey import target_status
    from edgevision.targets import load_target, target_names

    names = [name] if name is not None else target_names()
    found = [target_status(load_target(one)) for one in names]
    console = Console()
    if as_json:
        values = [
            {
                **status.target.model_dump(mode="json"),
                "builds_here": {"ok": status.builds.ok, "reason": status.builds.reason},
                "runs_here": {"ok": status.runs.ok, "reason": status.runs.reason},
            }
            for status in found
        ]
        typer.echo(json.dumps(values, indent=2))
        return
    if name is not None:
        console.print(_facts(found[0]))
        return
    show(console, found)


def show(console: Console, found: Sequence[TargetStatus]) -> None:
    """Print the table of targets, and below it what stands in the way, each reason once."""
    table = Table(title="Targets")
    for column in ("Target", "Backend", "INT8 scheme", "Builds here", "Runs here"):
        table.add_column(column)
    obstacles: dict[str, list[str]] = {}
    for status in found:
        target = status.target
        table.add_row(
            target.reference,
            target.backend,
            target.scheme or "none: float",
            mark(status.builds),
            mark(status.runs),
        )
        if status.obstacles:
            obstacles.setdefault(status.obstacles, []).append(target.reference)
    console.print(table)
    for reason, names in obstacles.items():
        console.print(
            f"[bold]{', '.join(names)}[/]: {escape(reason)}.", highlight=False, soft_wrap=True
        )


def mark(found: Availability) -> str:
    """Yes or no, in colour."""
    return "[green]yes[/]" if found.ok else "[red]no[/]"


def _facts(status: TargetStatus) -> Table:
    target = status.target
    table = Table(title=target.reference, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for field, value in target.model_dump(mode="json").items():
        if field in ("name", "jetpacks") or value in (None, [], 0):
            continue
        if field == "jetpack":
            value = {**value, "l4t": " or ".join(value["l4t"])}
            value = ", ".join(f"{key} {item}" for key, item in value.items())
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        table.add_row(field, str(value))
    if target.jetpacks:
        table.add_row("JetPacks to choose", ", ".join(j.version for j in target.jetpacks))
    for label, found in (("builds here", status.builds), ("runs here", status.runs)):
        table.add_row(label, f"{mark(found)}: {found.reason}")
    return table
