"""``--rebuild``: an engine for the machine at hand, before a bundle is run or measured on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from edgevision.cli._device import machine_of
from edgevision.errors import UsageError

if TYPE_CHECKING:
    from edgevision.remote import RemoteDevice

RebuildOption = Annotated[
    bool,
    typer.Option(
        "--rebuild", help="Where no engine of the bundle runs, build one into it there first."
    ),
]


@contextmanager
def machine_with_engine(
    bundle: Path, device: str | None, *, rebuild: bool, artifact: str | None
) -> Iterator[RemoteDevice | None]:
    """As ``machine_of``, with an engine for it in ``bundle`` where ``rebuild`` can give one.

    Raises:
        UsageError: ``rebuild`` beside an ``artifact`` that was named.
    """
    if rebuild and artifact is not None:
        raise UsageError(
            "--rebuild is for the engine that the runtime picks, not for a named artifact.",
            hint="Leave --artifact out.",
        )
    with machine_of(device) as machine:
        if rebuild:
            from edgevision.cli._progress import Phases
            from edgevision.pipeline.rebuild import rebuild_engine

            console = Console(stderr=True)
            with Phases(console) as phases:
                found = rebuild_engine(bundle, machine=machine, progress=phases)
            told = (
                f"Built: {found.engine.place}"
                if found.engine is not None
                else f"No engine was built: {found.reason}."
            )
            console.print(told, highlight=False, markup=False, soft_wrap=True)
        yield machine
