"""``edgevision doctor``: what is installed, what works here, what to install for the rest."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgevision.cli._device import DeviceOption, machine_of
from edgevision.cli.targets import mark, show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgevision.pipeline.survey import BackendStatus, JetsonStatus

_HELP = """Show what is installed, what this machine can build and run, and how to get the rest.

Examples:

  edgevision doctor

  edgevision doctor --json > machine.json

  edgevision doctor --device ssh://me@jetson
"""


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("doctor", help=_HELP)(_doctor)


def _doctor(
    device: DeviceOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    from edgevision.pipeline.survey import headline, survey

    if device is not None:
        _there(device, as_json)
        return
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
        _show_jetson(console, found.jetson)
    _show_backends(console, found.backends, "here")

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


def _there(device: str, as_json: bool) -> None:
    """What a device is and can run, as its agent tells it."""
    from edgevision.devices.setup import JetsonSetup
    from edgevision.pipeline.survey import BackendStatus, headline, status_of
    from edgevision.types import Availability

    with machine_of(device) as machine:
        assert machine is not None
        found, facts, python = machine.survey, machine.facts, machine.hello["python"]
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    console = Console()
    console.print(escape(headline(facts, python)), highlight=False, soft_wrap=True)
    jetson = found["jetson"]
    if jetson is not None:
        _show_jetson(console, status_of(JetsonSetup(**jetson)))
    backends = [
        BackendStatus(
            name,
            Availability(**told["builds"]),
            Availability(**told["runs"]),
            install=None,
        )
        for name, told in found["backends"].items()
    ]
    _show_backends(console, backends, "there")
    if not any(backend.runs.ok for backend in backends):
        console.print(
            "Nothing runs there yet: its Python needs onnxruntime, openvino or TensorRT, which on "
            "a Jetson comes with JetPack.",
            soft_wrap=True,
        )


def _show_jetson(console: Console, jetson: JetsonStatus) -> None:
    for text in jetson.lines:
        console.print(escape(text), highlight=False, soft_wrap=True)
    for text in jetson.advice:
        console.print(f"[yellow]Warning:[/] {escape(text)}", highlight=False, soft_wrap=True)


def _show_backends(console: Console, backends: Sequence[BackendStatus], where: str) -> None:
    table = Table(title="Backends")
    for column in ("Backend", f"Builds {where}", f"Runs {where}", "Found, or why not"):
        table.add_column(column, overflow="fold")
    for backend in backends:
        reasons = dict.fromkeys((backend.builds.reason, backend.runs.reason))
        table.add_row(
            backend.name, mark(backend.builds), mark(backend.runs), escape("; ".join(reasons))
        )
    console.print(table)
