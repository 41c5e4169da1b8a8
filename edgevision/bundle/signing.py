"""Who made a bundle: a signature in the form of OpenSSF model signing.

What is signed is ``manifest.json``, which holds the hash of every other file; so it stays right
when a folder is packed into a zip. It lies beside it as ``model.sig``.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgevision.bundle.archive import write_archive
from edgevision.bundle.manifest import MANIFEST_NAME, SIGNATURE_NAME
from edgevision.bundle.reader import Bundle, open_bundle
from edgevision.errors import BundleError, EdgeVisionError, InputError, UsageError
from edgevision.files import atomic_path, write_atomic
from edgevision.lazy import require


@dataclass(frozen=True)
class Key:
    """What to sign with.

    Attributes:
        private_key: PEM file of an elliptic curve key (P-256, P-384 or P-521); None signs with
            Sigstore, which asks who you are.
        password: of the key, where it is encrypted.
        certificate: PEM file of the key's certificate, for those who check by authority.
        chain: PEM files of the authorities above it.
        identity_token: for Sigstore, where no browser can ask.

    Raises:
        UsageError: a certificate without a key, or with an encrypted one.
    """

    private_key: Path | None = None
    password: str | None = None
    certificate: Path | None = None
    chain: tuple[Path, ...] = ()
    identity_token: str | None = None

    def __post_init__(self) -> None:
        if self.private_key is None and (self.certificate is not None or self.chain):
            raise UsageError("A certificate goes with its private key: give both.")
        if self.certificate is not None and self.password is not None:
            raise UsageError("With a certificate the key must not be encrypted.")
        if self.certificate is None and self.chain:
            raise UsageError("Certificates of authorities go with one of the key: give it too.")


@dataclass(frozen=True)
class Signer:
    """Whom a signature must be of: a key, an identity at Sigstore, or one certified by authorities.

    Attributes:
        public_key: PEM file.
        identity, issuer: of Sigstore, e.g. an address and the URL of who checked it.
        authorities: PEM files of certificates.

    Raises:
        UsageError: not exactly one of the three is given, or an identity without its issuer.
    """

    public_key: Path | None = None
    identity: str | None = None
    issuer: str | None = None
    authorities: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if "" in (self.identity, self.issuer):
            raise UsageError("Identity and issuer must not be empty: nobody would be checked.")
        if (self.identity is None) != (self.issuer is None):
            raise UsageError(
                "An identity goes with who checked it: give identity and issuer.",
                hint="For example --identity me@example.com --issuer https://accounts.google.com",
            )
        ways = (self.public_key is not None, self.identity is not None, bool(self.authorities))
        if sum(ways) != 1:
            raise UsageError(
                "A signature is checked in one way: give a public key, an identity, or "
                "certificates of authorities."
            )

    def __str__(self) -> str:
        if self.public_key is not None:
            return f"the key {self.public_key}"
        if self.identity is not None:
            return f"{self.identity} ({self.issuer})"
        return f"one certified by {', '.join(map(str, self.authorities))}"


def sign_bundle(path: str | Path, key: Key) -> Path:
    """Sign the bundle at ``path``, checked from end to end before.

    Returns:
        Where the signature lies; for a zip, which is written anew, the zip.

    Raises:
        BundleError: the bundle is damaged.
        InputError: a key or certificate cannot be used, or Sigstore cannot be reached.
        MissingExtraError: model-signing is not installed.
    """
    # Where it really lies: a link stays one.
    with open_bundle(Path(path).resolve()) as bundle, _manifest_of(bundle) as manifest:
        signature = manifest.with_name(SIGNATURE_NAME)
        for file in (key.private_key, key.certificate, *key.chain):
            _file(file)
        with _quiet("The bundle cannot be signed", InputError):
            _signing(key).sign(manifest, signature)
        write_atomic(bundle.folder / SIGNATURE_NAME, signature.read_bytes())
        if not bundle.source.is_file():
            return bundle.folder / SIGNATURE_NAME
        mode = bundle.source.stat().st_mode
        with atomic_path(bundle.source) as temporary:
            write_archive(bundle.folder, bundle.manifest, temporary)
        bundle.source.chmod(mode)
        return bundle.source


def check_signature(bundle: Bundle, signer: Signer) -> None:
    """Do nothing if ``bundle`` was signed by ``signer`` as it is now.

    Raises:
        BundleError: it is not signed, or by another, or was changed since.
        InputError: a key or certificate of ``signer`` cannot be used.
        MissingExtraError: model-signing is not installed.
    """
    signature = bundle.folder / SIGNATURE_NAME
    if not signature.is_file():
        raise BundleError(
            f"The bundle is not signed, expected: a signature of {signer}.",
            hint="Sign it: edgevision sign BUNDLE --key KEY.pem",
        )
    for file in (signer.public_key, *signer.authorities):
        _file(file)
    with _quiet(f"The signature of {signer} cannot be checked", InputError):
        verifying = _verifying(signer)
    changed = f"The signature is not of {signer}, or the bundle was changed"
    with _manifest_of(bundle) as manifest, _quiet(changed, BundleError):
        verifying.verify(manifest, signature)


@contextlib.contextmanager
def _manifest_of(bundle: Bundle) -> Iterator[Path]:
    """A file of our own with what ``bundle.manifest`` was read from: the one on disk may change."""
    with TemporaryDirectory(prefix="edgevision-sign-") as folder:
        path = Path(folder) / MANIFEST_NAME
        path.write_bytes(bundle.manifest_bytes)
        yield path


def _signing(key: Key) -> Any:
    config = require("model_signing.signing").Config()
    if key.private_key is None:
        return config.use_sigstore_signer(
            use_ambient_credentials=True, identity_token=key.identity_token
        )
    if key.certificate is not None:
        return config.use_certificate_signer(
            private_key=key.private_key,
            signing_certificate=key.certificate,
            certificate_chain=key.chain,
        )
    # As bytes, which is what the package hands it on to.
    password = key.password.encode() if key.password is not None else None
    return config.use_elliptic_key_signer(private_key=key.private_key, password=password)


def _verifying(signer: Signer) -> Any:
    config = require("model_signing.verifying").Config()
    if signer.public_key is not None:
        return config.use_elliptic_key_verifier(public_key=signer.public_key)
    if signer.identity is not None:
        return config.use_sigstore_verifier(identity=signer.identity, oidc_issuer=signer.issuer)
    return config.use_certificate_verifier(certificate_chain=signer.authorities)


def _file(path: Path | None) -> None:
    if path is not None and not path.is_file():
        raise InputError(f"No file at {path}.")


@contextlib.contextmanager
def _quiet(what: str, error: type[EdgeVisionError]) -> Iterator[None]:
    """Turn whatever the package raises into ``error``; what it says or asks is not our output."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except EdgeVisionError:
        raise
    except Exception as reason:  # parsers and cryptography raise anything
        if isinstance(reason, AttributeError):  # of a key of another kind
            reason = ValueError("an elliptic curve key is expected")
        words = " ".join(str(reason).split()).partition(": [")[0][:300] or type(reason).__name__
        raise error(f"{what}: {words}.") from reason
