"""``edgevision doctor``: what is installed, what works here, what to install for the rest."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgevision.cli.targets import mark, show

_HELP = """Show what is installed, what this machine can build and run, and how to get the rest.

Examples:

  edgevision doctor

  edgevision doctor --json > machine.json
"""


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("doctor", help=_HELP)(_doctor)


def _doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    from edgevision.pipeline.survey import headline, survey

    found = survey()
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2))
        return
    console = Console()
    console.print(escape(headline()), highlight=False, soft_wrap=True)
    packages = found.environment["packages"]
    line = ", ".join(f"{name} {version}" for name, version in packages.items())
    console.print(f"Installed: {line}", highlight=False, soft_wrap=True)

    if found.jetson is not None:
        for text in found.jetson.lines:
            console.print(escape(text), highlight=False, soft_wrap=True)
        for text in found.jetson.advice:
            console.print(f"[yellow]Warning:[/] {escape(text)}", highlight=False, soft_wrap=True)

    table = Table(title="Backends")
    for column in ("Backend", "Builds here", "Runs here", "Found, or why not"):
        table.add_column(column, overflow="fold")
    for backend in found.backends:
        reasons = dict.fromkeys((backend.builds.reason, backend.runs.reason))
        table.add_row(
            backend.name, mark(backend.builds), mark(backend.runs), escape("; ".join(reasons))
        )
    console.print(table)

    show(console, found.targets)

    lines = []
    for extra in found.extras:
        if extra.name == "dev":  # for working on EdgeVision itself
            continue
        missing = [name for name, version in extra.packages.items() if version is None]
        if missing:
            lines.append(f"{extra.install}  (missing: {', '.join(missing)})")
    told = {f"Install it with: {extra.install}" for extra in found.extras}
    lines += [f"{b.name}: {b.install}" for b in found.backends if b.install not in {None, *told}]
    console.print("To get the rest:" if lines else "Nothing is missing.")
    for text in dict.fromkeys(lines):
        console.print(f"  {escape(text)}", highlight=False, soft_wrap=True)
