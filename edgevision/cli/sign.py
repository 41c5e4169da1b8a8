"""``edgevision sign``: put a signature into a bundle, so that a device can tell who made it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from edgevision.errors import UsageError

_HELP = """Sign a bundle, so that others can check who made it and that nothing was changed since.

The signature is of manifest.json, which names every file by its hash, and lies beside it as
model.sig, in the form of OpenSSF model signing. A bundle that gets an engine later has to be signed
again. Needs pip install 'edgevision\\[sign]'.

Examples:

  openssl ecparam -name prime256v1 -genkey -noout -out release.pem

  openssl ec -in release.pem -pubout -out release.pub

  edgevision sign bundle/ --key release.pem

  edgevision verify bundle/ --public-key release.pub

  edgevision sign bundle.zip --sigstore
"""


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("sign", help=_HELP)(_sign)


def _sign(
    bundle: Annotated[Path, typer.Argument(help="Folder or zip of a bundle.")],
    key: Annotated[
        Path | None, typer.Option(help="PEM file of an elliptic curve private key.")
    ] = None,
    password: Annotated[
        str | None,
        typer.Option(
            envvar="EDGEVISION_KEY_PASSWORD",
            show_envvar=True,
            help="Of an encrypted key; others on this machine see what is typed here.",
        ),
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="PEM file of the key's certificate.")
    ] = None,
    chain: Annotated[
        list[Path] | None,
        typer.Option(help="PEM file of an authority above the certificate; may be repeated."),
    ] = None,
    sigstore: Annotated[
        bool, typer.Option("--sigstore", help="Without a key: Sigstore asks who you are (network).")
    ] = False,
    identity_token: Annotated[
        str | None, typer.Option(help="For --sigstore, where there is no browser.")
    ] = None,
) -> None:
    from edgevision.bundle.signing import Key, sign_bundle

    if sigstore == (key is not None):
        raise UsageError(
            "Expected one of --key and --sigstore.",
            hint="edgevision sign BUNDLE --key release.pem",
        )
    if identity_token is not None and not sigstore:
        raise UsageError("--identity-token goes with --sigstore.")
    made = sign_bundle(bundle, Key(key, password, certificate, tuple(chain or ()), identity_token))
    Console().print(f"Signed: {made}", highlight=False, markup=False, soft_wrap=True)
