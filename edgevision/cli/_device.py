"""``--device``: a machine at the end of an SSH connection instead of this one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from edgevision.remote import RemoteDevice

DeviceOption = Annotated[
    str | None,
    typer.Option(help="Do it on ssh://user@host[:port][?python=INTERPRETER] instead of here."),
]


@contextmanager
def machine_of(device: str | None) -> Iterator[RemoteDevice | None]:
    """The device at that address, connected within the block; None where none was named."""
    if device is None:
        yield None
        return
    from edgevision.remote import connect

    console = Console(stderr=True)
    with connect(device) as machine:
        console.print(
            f"On {machine}: {machine.facts.name}, Python {machine.hello['python']}",
            highlight=False,
            soft_wrap=True,
        )
        yield machine
