from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from edgevision.bundle import add_engine, open_bundle, write_zip
from edgevision.bundle.signing import Key, Signer, check_signature, sign_bundle
from edgevision.errors import BundleError, InputError, UsageError
from edgevision.runtime import load

Private = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def write_keys(
    folder: Path,
    key: Private | None = None,
    encryption: KeySerializationEncryption | None = None,
) -> tuple[Path, Path]:
    """A private and a public key as PEM files."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    folder.mkdir(parents=True, exist_ok=True)
    private, public = folder / "key.pem", folder / "key.pub"
    private.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return write_keys(tmp_path / "keys")


def test_what_a_key_signed_its_public_key_tells(bundle: Path, keys: tuple[Path, Path]) -> None:
    private, public = keys
    before = (bundle / "manifest.json").read_bytes()
    assert sign_bundle(bundle, Key(private)) == bundle / "model.sig"
    assert (bundle / "manifest.json").read_bytes() == before
    with open_bundle(bundle) as opened:
        check_signature(opened, Signer(public_key=public))


def test_a_signature_travels_in_a_zip(
    bundle: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    private, public = keys
    sign_bundle(bundle, Key(private))
    packed = write_zip(bundle, tmp_path / "packed.zip")
    with open_bundle(packed) as opened:
        check_signature(opened, Signer(public_key=public))


def test_a_zip_is_signed_in_place(bundle: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    private, public = keys
    packed = write_zip(bundle, tmp_path / "packed.zip")
    assert sign_bundle(packed, Key(private)) == packed
    with open_bundle(packed) as opened:
        check_signature(opened, Signer(public_key=public))
        assert opened.manifest == open_bundle(bundle).manifest


def test_another_key_is_refused(bundle: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    sign_bundle(bundle, Key(keys[0]))
    _, other = write_keys(tmp_path / "other")
    with (
        open_bundle(bundle) as opened,
        pytest.raises(BundleError, match=r"is not of the key .*other"),
    ):
        check_signature(opened, Signer(public_key=other))


def test_a_bundle_without_a_signature_is_refused(bundle: Path, keys: tuple[Path, Path]) -> None:
    with open_bundle(bundle) as opened, pytest.raises(BundleError, match="is not signed"):
        check_signature(opened, Signer(public_key=keys[1]))


def test_a_bundle_that_is_whole_but_another_is_refused(
    bundle: Path, keys: tuple[Path, Path], tmp_path: Path, write: Callable[..., Path]
) -> None:
    sign_bundle(bundle, Key(keys[0]))
    other = write(tmp_path / "forged", tmp_path / "forged-source", seed=1)
    shutil.copy(bundle / "model.sig", other)
    with open_bundle(other) as opened, pytest.raises(BundleError, match="was changed"):
        check_signature(opened, Signer(public_key=keys[1]))


@pytest.mark.parametrize("damage", ["", "{}", "[]", "nonsense", "\x00", '{"a": ' * 3000])
def test_a_damaged_signature_is_refused(
    damage: str, bundle: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (bundle / "model.sig").write_text(damage)
    with open_bundle(bundle) as opened, pytest.raises(BundleError, match="is not of the key"):
        check_signature(opened, Signer(public_key=keys[1]))
    assert capsys.readouterr().out == ""


def test_a_signature_over_other_words_is_refused(bundle: Path, keys: tuple[Path, Path]) -> None:
    sign_bundle(bundle, Key(keys[0]))
    signed = json.loads((bundle / "model.sig").read_text())
    payload = signed["dsseEnvelope"]["payload"]
    signed["dsseEnvelope"]["payload"] = (
        payload[:40] + ("A" if payload[40] != "A" else "B") + payload[41:]
    )
    (bundle / "model.sig").write_text(json.dumps(signed))
    with open_bundle(bundle) as opened, pytest.raises(BundleError, match="is not of the key"):
        check_signature(opened, Signer(public_key=keys[1]))


def test_a_signature_as_large_as_none_is_not_read(bundle: Path) -> None:
    (bundle / "model.sig").write_bytes(bytes((1 << 20) + 1))
    with pytest.raises(BundleError, match=r"model\.sig expected: at most"):
        open_bundle(bundle)


def test_what_is_checked_is_what_was_opened(
    bundle: Path, keys: tuple[Path, Path], tmp_path: Path, write: Callable[..., Path]
) -> None:
    sign_bundle(bundle, Key(keys[0]))
    signed = (bundle / "manifest.json").read_bytes()
    text = signed.replace(b'"cat"', b'"cow"')
    assert text != signed
    (bundle / "manifest.json").write_bytes(text)
    opened = open_bundle(bundle)
    (bundle / "manifest.json").write_bytes(signed)
    with pytest.raises(BundleError, match="was changed"):
        check_signature(opened, Signer(public_key=keys[1]))


def test_a_bundle_is_loaded_only_if_it_was_signed(bundle: Path, keys: tuple[Path, Path]) -> None:
    with pytest.raises(BundleError, match="is not signed"):
        load(bundle, signer=Signer(public_key=keys[1]))


def test_no_artifact_is_called_like_the_signature(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    for name in ("model.sig", "model.sig/x"):
        manifest["artifacts"][0]["path"] = name
        (bundle / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(BundleError, match=r"model\.sig"):
            open_bundle(bundle)


def test_a_link_to_a_zip_stays_one_and_the_zip_is_signed(
    bundle: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    packed = write_zip(bundle, tmp_path / "packed.zip")
    packed.chmod(0o600)
    (tmp_path / "link.zip").symlink_to(packed)
    sign_bundle(tmp_path / "link.zip", Key(keys[0]))
    assert (tmp_path / "link.zip").is_symlink()
    assert packed.stat().st_mode & 0o777 == 0o600
    with open_bundle(packed) as opened:
        check_signature(opened, Signer(public_key=keys[1]))


def test_an_engine_takes_the_signature_with_it(
    bundle: Path,
    keys: tuple[Path, Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    sign_bundle(bundle, Key(keys[0]))
    engine = tmp_path / "model.engine"
    engine.write_bytes(b"engine")
    add_engine(bundle, "gpu", engine, {}, backend="tensorrt")
    assert "sign it again" in caplog.text
    with open_bundle(bundle) as opened, pytest.raises(BundleError, match="is not signed"):
        check_signature(opened, Signer(public_key=keys[1]))


def test_an_encrypted_key_takes_its_password(bundle: Path, tmp_path: Path) -> None:
    private, public = write_keys(tmp_path / "keys", encryption=BestAvailableEncryption(b"secret"))
    for password in (None, "wrong"):
        with pytest.raises(InputError, match="cannot be signed"):
            sign_bundle(bundle, Key(private, password))
    assert not (bundle / "model.sig").exists()
    sign_bundle(bundle, Key(private, "secret"))
    with open_bundle(bundle) as opened:
        check_signature(opened, Signer(public_key=public))


def test_keys_that_cannot_be_used_are_named(
    bundle: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"No file at .*none"):
        sign_bundle(bundle, Key(tmp_path / "none"))
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN PRIVATE KEY-----")
    foreign, _ = write_keys(tmp_path / "rsa", rsa.generate_private_key(65537, 2048))
    for path, told in (
        (broken, "cannot be signed"),
        (foreign, "an elliptic curve key is expected"),
    ):
        with pytest.raises(InputError, match=told):
            sign_bundle(bundle, Key(path))
    sign_bundle(bundle, Key(keys[0]))
    with open_bundle(bundle) as opened:
        with pytest.raises(InputError, match=r"No file at .*none"):
            check_signature(opened, Signer(public_key=tmp_path / "none"))
        with pytest.raises(InputError, match="cannot be checked"):
            check_signature(opened, Signer(public_key=broken))


def test_a_damaged_bundle_is_not_signed(bundle: Path, keys: tuple[Path, Path]) -> None:
    (bundle / "calibration.json").write_bytes(b"[]\n")
    with pytest.raises(BundleError, match="sha256"):
        sign_bundle(bundle, Key(keys[0]))
    assert not (bundle / "model.sig").exists()


def test_authorities_vouch_for_a_certificate(bundle: Path, tmp_path: Path) -> None:
    root, root_key = certificate("Root", None, None)
    leaf, leaf_key = certificate("Maker", root, root_key)
    other, _ = certificate("Other", None, None)
    paths = {name: tmp_path / f"{name}.pem" for name in ("root", "leaf", "other")}
    for path, made in zip(paths.values(), (root, leaf, other), strict=True):
        path.write_bytes(made.public_bytes(Encoding.PEM))
    private, _ = write_keys(tmp_path / "leaf", leaf_key)
    sign_bundle(bundle, Key(private, certificate=paths["leaf"], chain=(paths["root"],)))
    with open_bundle(bundle) as opened:
        check_signature(opened, Signer(authorities=(paths["root"],)))
        with pytest.raises(BundleError, match="is not of one certified by"):
            check_signature(opened, Signer(authorities=(paths["other"],)))


def test_one_way_to_check_is_asked_for() -> None:
    with pytest.raises(UsageError, match="in one way"):
        Signer()
    with pytest.raises(UsageError, match="in one way"):
        Signer(public_key=Path("a"), authorities=(Path("b"),))
    with pytest.raises(UsageError, match="who checked it"):
        Signer(identity="me@example.com")
    for identity, issuer in (("", ""), ("me@example.com", ""), ("", "https://example.com")):
        with pytest.raises(UsageError, match="must not be empty"):
            Signer(identity=identity, issuer=issuer)
    with pytest.raises(UsageError, match="must not be encrypted"):
        Key(Path("a"), password="secret", certificate=Path("b"))
    with pytest.raises(UsageError, match="private key"):
        Key(certificate=Path("a"))


def certificate(
    name: str, issuer: x509.Certificate | None, issuer_key: ec.EllipticCurvePrivateKey | None
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A certificate of a fresh key, signed by ``issuer`` or by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(timezone.utc)
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
         "crl_sign", "encipher_only", "decipher_only"), False,
    )  # fmt: skip
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer is not None else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=True, key_cert_sign=issuer is None, **usage),
            critical=True,
        )
        .sign(issuer_key or key, hashes.SHA256())
    )
    return made, key
