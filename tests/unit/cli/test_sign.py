"""``sign`` and what ``verify`` says of signatures, as a user calls them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from edgevision.cli.app import run_command


@pytest.fixture
def keys(tmp_path: Path) -> tuple[str, str]:
    """Made as the help of ``sign`` says."""
    private, public = tmp_path / "release.pem", tmp_path / "release.pub"
    make = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(private)]
    subprocess.run(make, check=True, capture_output=True)
    show = ["openssl", "ec", "-in", str(private), "-pubout", "-out", str(public)]
    subprocess.run(show, check=True, capture_output=True)
    return str(private), str(public)


def test_signed_and_verified(
    bundle: Path, keys: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    private, public = keys
    assert run_command(["sign", str(bundle), "--key", private]) == 0
    assert capsys.readouterr().out.strip() == f"Signed: {bundle / 'model.sig'}"
    assert run_command(["verify", str(bundle), "--public-key", public]) == 0
    assert f"Signed by the key {public}." in " ".join(capsys.readouterr().out.split())
    assert run_command(["verify", str(bundle), "--public-key", public, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["signer"] == f"the key {public}"


def test_unsigned_is_told_before_anything_is_opened(
    bundle: Path, keys: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["verify", str(bundle), "--public-key", keys[1]]) == 3
    told = capsys.readouterr()
    assert "is not signed" in told.err
    assert "edgevision sign" in told.err
    assert told.out == ""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["sign", "b"], "--key and --sigstore"),
        (["sign", "b", "--key", "k", "--sigstore"], "--key and --sigstore"),
        (["sign", "b", "--key", "k", "--identity-token", "t"], "goes with --sigstore"),
        (["sign", "b", "--key", "k", "--chain", "c"], "give it too"),
        (["verify", "b", "--identity", "me@example.com"], "identity and issuer"),
        (["verify", "b", "--identity", "", "--issuer", ""], "must not be empty"),
        (["verify", "b", "--public-key", "k", "--authority", "c"], "in one way"),
    ],
)
def test_options_that_do_not_go_together(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(arguments) == 2
    assert told in " ".join(capsys.readouterr().err.split())
