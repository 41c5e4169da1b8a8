from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgevision.bundle import add_engine, open_bundle, write_zip
from edgevision.bundle.engines import engine_sidecar
from edgevision.errors import BundleError, InputError

SIDECAR = {"compute_capabilities": ["86", "89"], "onnx_sha256": "a" * 64, "layers": [], "flags": {}}


def _engine(tmp_path: Path, content: bytes, name: str = "model.engine") -> Path:
    path = tmp_path / "build" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_engine_is_added_with_its_sidecar(bundle: Path, tmp_path: Path, packed: bool) -> None:
    place = write_zip(bundle, tmp_path / "b.zip") if packed else bundle
    engine = _engine(tmp_path, b"engine")
    entry = add_engine(
        place, "rtx", engine, SIDECAR, backend="tensorrt_rtx", precision="int8", timing_cache=engine
    )
    assert entry.path.startswith("engines/rtx/")
    with open_bundle(place) as opened:
        assert opened.path(entry).read_bytes() == b"engine"
        assert entry.meta["compute_capabilities"] == ["86", "89"]
        assert "layers" not in entry.meta, "only what the choice needs is repeated"
        assert engine_sidecar(opened, entry) == SIDECAR
        assert "timing-cache" in {item.kind for item in opened.manifest.artifacts}


def test_role_and_sidecar_say_only_what_the_build_made(bundle: Path, tmp_path: Path) -> None:
    engine = _engine(tmp_path, b"engine")
    facts = {**SIDECAR, "build_seconds": 1.5}
    for role in ("candidate", None):
        entry = add_engine(bundle, "rtx", engine, facts, backend="tensorrt_rtx", role=role)
        assert entry.role == role
    with open_bundle(bundle) as opened:
        assert opened.manifest.artifact(entry.path).role is None
        assert engine_sidecar(opened, entry) == SIDECAR
    assert add_engine(bundle, "rtx", engine, facts, backend="tensorrt_rtx").role == "shipped"


def test_the_sidecar_of_a_quantized_engine_names_its_calibration(
    bundle: Path, tmp_path: Path
) -> None:
    engine = _engine(tmp_path, b"engine")
    entry = add_engine(bundle, "rtx", engine, SIDECAR, backend="tensorrt_rtx", scheme="tensorrt")
    with open_bundle(bundle) as opened:
        table = opened.manifest.artifact("calibration.json")
        assert engine_sidecar(opened, entry)["calibration"] == {table.path: table.sha256}


def test_a_new_build_replaces_the_old_one(bundle: Path, tmp_path: Path) -> None:
    first = add_engine(bundle, "rtx", _engine(tmp_path, b"one"), SIDECAR, backend="tensorrt_rtx")
    other = add_engine(
        bundle, "rtx", _engine(tmp_path, b"other", "b.engine"), SIDECAR, backend="tensorrt_rtx"
    )
    second = add_engine(bundle, "rtx", _engine(tmp_path, b"two"), SIDECAR, backend="tensorrt_rtx")
    with open_bundle(bundle) as opened:
        engines = {item.path for item in opened.manifest.artifacts if item.kind == "engine"}
    assert engines == {other.path, second.path}
    assert not (bundle / first.path).exists()
    assert not (bundle / first.path).parent.exists()


def test_a_kill_before_the_manifest_leaves_the_old_bundle(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = add_engine(bundle, "rtx", _engine(tmp_path, b"one"), SIDECAR, backend="tensorrt_rtx")
    import edgevision.bundle.engines as engines

    def killed(path: Path, data: bytes) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engines, "write_atomic", killed)
        with pytest.raises(KeyboardInterrupt):
            add_engine(bundle, "rtx", _engine(tmp_path, b"two"), SIDECAR, backend="tensorrt_rtx")
    with open_bundle(bundle) as opened:
        assert opened.path(first).read_bytes() == b"one"
    # The next build tidies up what was left.
    second = add_engine(bundle, "rtx", _engine(tmp_path, b"3"), SIDECAR, backend="tensorrt_rtx")
    left = {
        p.relative_to(bundle).as_posix() for p in (bundle / "engines").rglob("*") if p.is_file()
    }
    assert left == {second.path, f"{second.path}.json"}


def test_bad_engines_are_refused(bundle: Path, tmp_path: Path) -> None:
    before = (bundle / "manifest.json").read_bytes()
    with pytest.raises(InputError, match="No file at"):
        add_engine(bundle, "rtx", tmp_path / "none", SIDECAR, backend="tensorrt_rtx")
    with pytest.raises(InputError, match="plain JSON"):
        add_engine(
            bundle, "rtx", _engine(tmp_path, b"x"), {"a": float("nan")}, backend="tensorrt_rtx"
        )
    with pytest.raises(BundleError, match="Path in a bundle"):
        add_engine(bundle, "../up", _engine(tmp_path, b"x"), SIDECAR, backend="tensorrt_rtx")
    assert (bundle / "manifest.json").read_bytes() == before


def test_a_damaged_sidecar_is_told(bundle: Path, tmp_path: Path) -> None:
    entry = add_engine(bundle, "rtx", _engine(tmp_path, b"x"), SIDECAR, backend="tensorrt_rtx")
    with open_bundle(bundle) as opened:
        (bundle / f"{entry.path}.json").write_text(json.dumps([1]))
        with pytest.raises(InputError, match="JSON object"):
            engine_sidecar(opened, entry)
