"""``edgevision run``: predictions for image files and folders."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from edgevision.cli._device import DeviceOption
from edgevision.cli._rebuild import RebuildOption, machine_with_engine
from edgevision.errors import DataError, StorageError, UsageError

if TYPE_CHECKING:
    from edgevision.runtime import FileResult, Model
    from edgevision.tasks.base import Prediction

_HELP = """Predict image files with the best artifact of a bundle that this machine can run.

A file that cannot be read is reported and the others follow; the exit code is then 3.

Examples:

  edgevision run bundle/ --source photo.jpg

  edgevision run bundle.zip --source photos/ --out drawn/ --json

  edgevision run bundle/ --source photos/ --device ssh://me@jetson --rebuild
"""
_VIDEO = frozenset({".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg"})


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("run", help=_HELP)(_run)


def _run(
    bundle: Annotated[Path, typer.Argument(help="Folder or zip of a bundle.")],
    source: Annotated[str, typer.Option(help="An image file or a folder of them.")],
    out: Annotated[
        Path | None, typer.Option(help="Save the images with their predictions drawn here.")
    ] = None,
    artifact: Annotated[
        str | None, typer.Option(help="baseline, shipped or a path in the bundle.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    device: DeviceOption = None,
    rebuild: RebuildOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON line a file.")] = False,
) -> None:
    from edgevision.runtime import load

    place = _image_source(source)
    errors = Console(stderr=True)
    failed = done = 0
    table = Table("prediction", Column("file", overflow="fold"))
    with (
        machine_with_engine(bundle, device, rebuild=rebuild, artifact=artifact) as machine,
        load(bundle, artifact=artifact, threads=threads, machine=machine) as model,
    ):
        errors.print(str(model.choice), highlight=False, markup=False, soft_wrap=True)
        results: Iterable[FileResult] = (
            model.predict_folder(place) if place.is_dir() else model.predict_files([place])
        )
        for result in results:
            if result.prediction is None:
                failed += 1
                assert result.error is not None
                errors.print(f"[red]Unreadable:[/] {escape(result.error.message)}", soft_wrap=True)
                if as_json:
                    typer.echo(json.dumps({"file": str(result.path), "error": str(result.error)}))
                continue
            done += 1
            if as_json:
                line = {"file": str(result.path), "prediction": result.prediction.to_dict()}
                typer.echo(json.dumps(line))
            else:
                table.add_row(escape(str(result.prediction)), escape(str(result.path)))
            if out is not None:
                _save(model, result.path, result.prediction, _drawn_name(result.path, place, out))
    if done and not as_json:
        Console().print(table)
    if failed:
        raise DataError(f"{failed} of {failed + done} files could not be read.")


def _image_source(source: str) -> Path:
    supported = "image files (PNG, JPEG, BMP, WebP, TIFF) and folders of them"
    path = Path(source)
    if source.isdigit() or "://" in source or path.suffix.lower() in _VIDEO:
        raise UsageError(
            f"Cameras, streams and videos need a decoder that is not part of the base install; "
            f"got '{source}'.",
            hint=f"Supported: {supported}.",
        )
    if not path.exists():
        raise DataError(f"No file or folder at {path}.", hint=f"Supported: {supported}.")
    return path


def _drawn_name(path: Path, source: Path, out: Path) -> Path:
    inside = path.relative_to(source) if source.is_dir() else Path(path.name)
    # The old suffix stays in the name: a.png and a.jpg are two files.
    return out / inside.with_name(f"{inside.name}.png")


def _save(model: Model, path: Path, prediction: Prediction, target: Path) -> None:
    from edgevision.files import atomic_path
    from edgevision.runtime.inputs import read_image

    if target.resolve() == path.resolve():
        raise StorageError(f"{target} is the source itself.", hint="Choose another --out folder.")
    drawn = model.task.draw(read_image(path), prediction)
    with atomic_path(target) as temporary:
        drawn.save(temporary, "PNG")
