"""The ``edgevision`` command. Each command is a file of this folder and one line below."""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler

import edgevision
from edgevision.cli._errors import run_guarded

_COMMANDS = (
    "compress",
    "train",
    "profile",
    "data",
    "build_engine",
    "import_kit",
    "bench",
    "run",
    "verify",
    "sign",
    "inspect",
    "targets",
    "doctor",
)

# Typer carries click under its own name since 0.26, so the class is taken from Typer.
_CLICK_ERROR: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

app = typer.Typer(
    name="edgevision",
    help="Compress a vision model for a device, prove its accuracy and speed, run it there.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"edgevision {edgevision.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    log_level: Annotated[
        str, typer.Option(help="debug, info, warning or error.", case_sensitive=False)
    ] = "warning",
    log_file: Annotated[Path | None, typer.Option(help="Write the log here too.")] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    if log_level.lower() not in ("debug", "info", "warning", "error"):
        raise typer.BadParameter(f"'{log_level}' is none of debug, info, warning, error")
    handlers: list[logging.Handler] = [
        RichHandler(console=Console(stderr=True), show_path=False, show_time=False)
    ]
    if log_file is not None:
        try:
            handlers.append(logging.FileHandler(log_file))
        except OSError as error:
            raise typer.BadParameter(
                f"'{log_file}' cannot be written: {error.strerror}", param_hint="--log-file"
            ) from error
    logging.basicConfig(level="WARNING", format="%(message)s", handlers=handlers, force=True)
    logging.getLogger("edgevision").setLevel(log_level.upper())


for _name in _COMMANDS:
    import_module(f"edgevision.cli.{_name}").register(app)


def main() -> None:
    """Entry point: run the command and exit with its code."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """Run the command line ``arguments`` and return the exit code."""

    def call() -> None:
        try:
            code = app(args=arguments, prog_name="edgevision", standalone_mode=False)
        except _CLICK_ERROR as error:
            error.show()
            raise SystemExit(error.exit_code) from None
        except typer.Abort:
            raise KeyboardInterrupt from None
        if isinstance(code, int) and code:
            raise SystemExit(code)

    try:
        return run_guarded(call)
    except SystemExit as stop:
        return int(stop.code or 0)
