"""``edgevision verify``: hashes, golden vectors, and on demand the accuracy."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgevision.cli._device import DeviceOption, machine_of

if TYPE_CHECKING:
    from edgevision.pipeline.check import BundleCheck

_HELP = """Check that a bundle is whole and that this machine computes the same as its maker.

Every hash first, then the signature, if you name who must have made it; then the golden images must
give their stored tensors bit for bit, and every artifact that runs here its stored outputs within
the stored bound. With --data the accuracy is measured again over the whole validation split (needs
the train extra for some sources).

Examples:

  edgevision verify bundle/ --data fashion-mnist-mini

  edgevision verify bundle/ --public-key release.pub

  edgevision verify bundle/ --identity me@example.com --issuer https://accounts.google.com
"""


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("verify", help=_HELP)(_verify)


def _verify(
    bundle: Annotated[Path, typer.Argument(help="Folder or zip of a bundle.")],
    data: Annotated[
        str | None, typer.Option(help="Measure the accuracy again, over this validation split.")
    ] = None,
    public_key: Annotated[
        Path | None, typer.Option(help="PEM file of the key that must have signed it.")
    ] = None,
    identity: Annotated[
        str | None, typer.Option(help="Who must have signed it through Sigstore (network).")
    ] = None,
    issuer: Annotated[str | None, typer.Option(help="URL of who checked that identity.")] = None,
    authority: Annotated[
        list[Path] | None,
        typer.Option(help="PEM file of a certificate that must stand above the signer's."),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    device: DeviceOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    from edgevision.cli._progress import Phases
    from edgevision.pipeline.check import verify_bundle

    signer = None
    if any(given is not None for given in (public_key, identity, issuer, authority)):
        from edgevision.bundle.signing import Signer

        signer = Signer(public_key, identity, issuer, tuple(authority or ()))
    console = Console()
    with machine_of(device) as machine, Phases(Console(stderr=True)) as phases:
        result = verify_bundle(
            bundle,
            signer=signer,
            data=data,
            threads=threads,
            machine=machine,
            progress=lambda done, total: phases("accuracy", done, total),
        )
    if as_json:
        typer.echo(json.dumps(asdict(result), indent=1))
    else:
        _show(console, result)
    result.raise_for_result()


def _show(console: Console, result: BundleCheck) -> None:
    console.print(f"{result.files} files, {result.size / 1e6:.2f} MB: every hash is right.")
    if result.signer is not None:
        console.print(f"Signed by {result.signer}.", highlight=False, markup=False, soft_wrap=True)
    console.print(f"Runs here: {result.choice}", highlight=False, markup=False, soft_wrap=True)
    images = result.golden.preprocessed
    console.print(f"Preprocessing: {images} golden images equal bit for bit.", highlight=False)
    table = Table(title="Golden outputs")
    for name in ("artifact", "output", "largest difference", "allowed", ""):
        table.add_column(name)
    for check in result.golden.checks:
        table.add_row(
            escape(check.artifact),
            escape(check.output),
            f"{check.max_abs:.3g}",
            f"{check.bound:.3g}",
            "[green]ok[/]" if check.ok else "[bold red]too far[/]",
        )
    if result.golden.checks:
        console.print(table)
    for line in result.golden.skipped:
        console.print(f"Not checked: {line}", highlight=False, markup=False, soft_wrap=True)
    accuracy = result.accuracy
    if accuracy is None:
        return
    told = f"{accuracy.metric} over {accuracy.images} images: {accuracy.value:.2f} %"
    if accuracy.stored is not None:
        told += (
            f" (stored {accuracy.stored.candidate:.2f} %, FP32 {accuracy.stored.baseline:.2f} %)"
        )
    if accuracy.same_images is False:
        told += "; these are not the images that the bundle was verified on"
    console.print(told, highlight=False)
