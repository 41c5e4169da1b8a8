from __future__ import annotations

import json
import os
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgevision.bundle import integrity, open_bundle, write_zip
from edgevision.errors import BundleError


def _edit(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = bundle / "manifest.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_one_flipped_byte_anywhere_is_found(bundle: Path) -> None:
    with open_bundle(bundle) as opened:
        entries = opened.manifest.artifacts
    for entry in entries:
        path = bundle / entry.path
        good = path.read_bytes()
        for place in {0, len(good) // 2, len(good) - 1}:
            path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
            with pytest.raises(
                BundleError, match=r"expected: sha256 [0-9a-f]{64}, found: "
            ) as info:
                open_bundle(bundle)
            assert entry.sha256 in info.value.message
        path.write_bytes(good)
    open_bundle(bundle)


def test_wrong_sizes_and_missing_files(bundle: Path) -> None:
    model = bundle / "model.fp32.onnx"
    good = model.read_bytes()
    model.write_bytes(good[:-1])
    with pytest.raises(BundleError, match="expected: 3000 bytes, found: 2999"):
        open_bundle(bundle)
    model.unlink()
    with pytest.raises(BundleError, match=r"lacks 'model.fp32.onnx'"):
        open_bundle(bundle)


def test_files_that_the_manifest_does_not_name(bundle: Path) -> None:
    # A killed engine build may leave something there; it is never read.
    (bundle / "engines" / "rtx").mkdir(parents=True)
    (bundle / "engines" / "rtx" / "left.engine").write_bytes(b"x")
    open_bundle(bundle)
    (bundle / "weights.bin").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"does not name: 'weights.bin'"):
        open_bundle(bundle)


@pytest.mark.parametrize("inside", [True, False])
def test_links_are_refused(bundle: Path, tmp_path: Path, inside: bool) -> None:
    model = bundle / "model.fp32.onnx"
    target = bundle / "calibration.json" if inside else tmp_path / "outside"
    (tmp_path / "outside").write_bytes(model.read_bytes())
    model.unlink()
    model.symlink_to(target)
    with pytest.raises(BundleError, match="link"):
        open_bundle(bundle)


def test_a_linked_folder_or_manifest_is_refused(bundle: Path, tmp_path: Path) -> None:
    (bundle / "golden").rename(tmp_path / "golden")
    (bundle / "golden").symlink_to(tmp_path / "golden")
    with pytest.raises(BundleError, match="link"):
        open_bundle(bundle)
    (bundle / "manifest.json").rename(tmp_path / "manifest.json")
    (bundle / "manifest.json").symlink_to(tmp_path / "manifest.json")
    with pytest.raises(BundleError, match="plain file"):
        open_bundle(bundle)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_does_not_hang(bundle: Path) -> None:
    (bundle / "calibration.json").unlink()
    os.mkfifo(bundle / "calibration.json")
    with pytest.raises(BundleError, match="no plain file"):
        open_bundle(bundle)


def test_no_bundle_at_all(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="No bundle at"):
        open_bundle(tmp_path / "missing")
    with pytest.raises(BundleError, match=r"No manifest.json"):
        open_bundle(tmp_path)
    (tmp_path / "x.zip").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(BundleError, match="neither a bundle folder nor a readable zip"):
        open_bundle(tmp_path / "x.zip")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(schema_version=2), "schema version 2, this EdgeVision reads 1"),
        (lambda m: m.update(schema_version=True), "schema version True"),
        (lambda m: m.pop("schema_version"), "schema version None"),
        (lambda m: m.update(extra=1), "extra: Extra inputs are not permitted"),
        (lambda m: m.pop("task"), "task: Field required"),
        (lambda m: m["artifacts"][0].update(path="../x"), "stay inside the folder"),
        (lambda m: m["artifacts"][0].update(path="/etc/passwd"), "stay inside the folder"),
        (lambda m: m["artifacts"].append(m["artifacts"][0]), "twice"),
        (lambda m: m["artifacts"].append(m["artifacts"][0] | {"path": "GOLDEN"}), "as a folder"),
        (lambda m: m["artifacts"][0].update(sha256="A" * 64), "sha256"),
        (lambda m: m["artifacts"][0].update(size=-1), "size"),
        (lambda m: m["artifacts"][0].update(kind="pickle"), "kind"),
        (lambda m: m["preprocessing"].update(std=[0, 1, 1]), "std above zero"),
        (lambda m: m["preprocessing"].update(height=1 << 40), "16384"),
        (lambda m: m["golden"].update(tensor="model.fp32.onnx"), "not among the artifacts"),
        (lambda m: m["golden"]["bounds"].clear(), "same runnable artifacts"),
        (lambda m: m.update(labels=[]), "labels"),
    ],
)
def test_manifest_is_read_strictly(
    bundle: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    _edit(bundle, change)
    with pytest.raises(BundleError) as info:
        open_bundle(bundle)
    assert message in str(info.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        '{"a": 1, "a": 2}',
        '{"schema_version": NaN}',
        "[" * 100_000,
        '{"schema_version": 1' + "0" * 5000 + "}",
        '{"schema_version": 1}',
        "\ufeff{}",
    ],
)
def test_manifests_that_are_none(bundle: Path, text: str) -> None:
    (bundle / "manifest.json").write_text(text)
    with pytest.raises(BundleError):
        open_bundle(bundle)


def test_manifest_of_deep_values_is_no_defect(bundle: Path) -> None:
    deep: Any = 1
    for _ in range(400):
        deep = {"a": deep}
    _edit(bundle, lambda m: m["artifacts"][0].update(meta=deep))
    with pytest.raises(BundleError):
        open_bundle(bundle)


def _rezip(source: Path, target: Path, change: Callable[[zipfile.ZipInfo, bytes], Any]) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            for name, data in change(info, old.read(info)) or [(info, old.read(info))]:
                new.writestr(name, data, zipfile.ZIP_DEFLATED)
    return target


def test_zip_with_paths_that_leave(bundle: Path, tmp_path: Path) -> None:
    packed = write_zip(bundle, tmp_path / "b.zip")
    for number, name in enumerate(["../evil", "/tmp/evil", "a/../../evil", "C:/evil"]):
        bad = tmp_path / f"{number}.zip"
        _rezip(packed, bad, lambda info, data: None)
        with zipfile.ZipFile(bad, "a") as archive:
            archive.writestr(name, b"x")
        with pytest.raises(BundleError, match="stay inside the folder"):
            open_bundle(bad)
    assert not (tmp_path.parent / "evil").exists()


def test_zip_with_links_duplicates_and_strangers(bundle: Path, tmp_path: Path) -> None:
    packed = write_zip(bundle, tmp_path / "b.zip")

    def as_link(info: zipfile.ZipInfo, data: bytes) -> Any:
        if info.filename == "calibration.json":
            link = zipfile.ZipInfo(info.filename)
            link.create_system = 3
            link.external_attr = (stat.S_IFLNK | 0o777) << 16
            return [(link, b"/etc/passwd")]
        return None

    with pytest.raises(BundleError, match="link"):
        open_bundle(_rezip(packed, tmp_path / "link.zip", as_link))
    _rezip(packed, tmp_path / "twice.zip", lambda info, data: None)
    with (
        pytest.warns(UserWarning, match="Duplicate"),
        zipfile.ZipFile(tmp_path / "twice.zip", "a") as archive,
    ):
        archive.writestr("calibration.json", b"{}\n")
    with pytest.raises(BundleError, match="twice"):
        open_bundle(tmp_path / "twice.zip")
    _rezip(packed, tmp_path / "more.zip", lambda info, data: None)
    with zipfile.ZipFile(tmp_path / "more.zip", "a") as archive:
        archive.writestr("engines/rtx/left.engine", b"x")
    with pytest.raises(BundleError, match="does not name"):
        open_bundle(tmp_path / "more.zip")


def test_zip_bomb_is_refused_before_it_is_unpacked(bundle: Path, tmp_path: Path) -> None:
    packed = write_zip(bundle, tmp_path / "b.zip")

    def bigger(info: zipfile.ZipInfo, data: bytes) -> Any:
        if info.filename == "calibration.json":
            return [(info.filename, bytes(200 << 20))]
        return None

    bomb = _rezip(packed, tmp_path / "bomb.zip", bigger)
    assert bomb.stat().st_size < 1 << 20
    with pytest.raises(BundleError, match=rf"expected: 3 bytes, found: {200 << 20}"):
        open_bundle(bomb)


def test_zip_bomb_that_lies_about_its_size(bundle: Path, tmp_path: Path) -> None:
    packed = write_zip(bundle, tmp_path / "b.zip")

    def bigger(info: zipfile.ZipInfo, data: bytes) -> Any:
        return [(info.filename, bytes(50 << 20))] if info.filename == "calibration.json" else None

    bomb = _rezip(packed, tmp_path / "bomb.zip", bigger)
    data = bomb.read_bytes()
    size = (50 << 20).to_bytes(4, "little")
    assert data.count(size) == 2, "local header and central directory"
    bomb.write_bytes(data.replace(size, (3).to_bytes(4, "little")))
    with pytest.raises(BundleError):
        open_bundle(bomb)


def test_total_and_count_limits(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = write_zip(bundle, tmp_path / "b.zip")
    monkeypatch.setattr(integrity, "MAX_FILES", 3)
    for path in (bundle, packed):
        with pytest.raises(BundleError, match="more than 3 files"):
            open_bundle(path)
    monkeypatch.undo()
    monkeypatch.setattr(integrity, "MAX_MANIFEST", 100)
    for path in (bundle, packed):
        with pytest.raises(BundleError, match="at most 100 bytes"):
            open_bundle(path)


def test_total_size_limit(bundle: Path) -> None:
    with open_bundle(bundle) as opened:
        sizes = integrity.folder_sizes(bundle, opened.manifest)
        integrity.check_declared(opened.manifest, sizes)
        with pytest.raises(BundleError, match="limit of 1000 bytes"):
            integrity.check_declared(opened.manifest, sizes, total=1000)
