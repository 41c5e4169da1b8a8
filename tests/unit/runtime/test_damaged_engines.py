"""Real engines in bundles, damaged: none gets as far as the vendor's deserializer."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from edgevision.backends.base import Artifact, Runner
from edgevision.bundle import add_engine, open_bundle, write_zip
from edgevision.bundle.engines import engine_sidecar
from edgevision.errors import BundleError, UnavailableError, UsageError
from edgevision.machine import ThisMachine
from edgevision.pipeline.check import verify_bundle
from edgevision.pipeline.engine import build_engine
from edgevision.runtime import load
from edgevision.types import TensorSpec
from tests.unit.runtime.boards import Board, Channels


@pytest.fixture
def built(engine_bundle: Path) -> tuple[Path, Path]:
    """A bundle with a real engine, and the engine's file in it."""
    (engine,) = engine_bundle.rglob("*.engine")
    return engine_bundle, engine


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])  # within the header


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped": (_flip, "expected: sha256"),
    "cut": (_cut, "found: 20"),
    "empty": (lambda path: path.write_bytes(b""), "found: 0"),
    "gone": (Path.unlink, "Bundle lacks"),
}


def test_the_engine_of_this_machine_runs(built: tuple[Path, Path]) -> None:
    folder, engine = built
    board = Board()
    with load(folder, machine=board) as model:
        assert model.choice.backend == "tensorrt_rtx"
        assert model.choice.passed_over == ()
    assert board.deserialized == [engine.name]


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_engine_is_passed_over_unread(built: tuple[Path, Path], kind: str) -> None:
    folder, engine = built
    damage, said = DAMAGE[kind]
    damage(engine)
    board = Board()
    with load(folder, machine=board) as model:
        assert model.choice.backend == "onnxruntime"
        told = model.choice.passed_over[0]
    assert engine.name in told
    assert said in told
    assert told.endswith("; --rebuild may build one")
    assert ".;" not in told
    assert board.deserialized == []
    with pytest.raises(BundleError, match=said):  # by name it is refused, not replaced
        load(folder, artifact=engine.relative_to(folder).as_posix(), machine=board)
    for strict in (open_bundle, verify_bundle):
        with pytest.raises(BundleError, match=said):
            strict(folder)


def test_another_engine_takes_its_place(built: tuple[Path, Path], tmp_path: Path) -> None:
    folder, engine = built
    other = tmp_path / "other.engine"
    shutil.copyfile(engine, other)
    sidecar = json.loads(Path(f"{engine}.json").read_bytes())
    add_engine(folder, "spare", other, sidecar, backend="tensorrt_rtx", scheme="tensorrt")
    _flip(engine)
    board = Board()
    with load(folder, machine=board) as model:
        assert model.choice.path.endswith("/other.engine")
        assert len(model.choice.passed_over) == 1
    assert board.deserialized == ["other.engine"]


def test_the_engine_of_another_board_with_the_same_gpu_is_left_alone(
    built: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, engine = built
    sidecar = json.loads(Path(f"{engine}.json").read_bytes()) | {"compute_capabilities": ["87"]}
    for target in ("jetson-agx-orin", "jetson-orin-nano"):
        copy = tmp_path / f"{target}.engine"
        shutil.copyfile(engine, copy)
        add_engine(folder, target, copy, sidecar, backend="tensorrt_rtx", scheme="tensorrt")
    _flip(engine)
    board = Board(sm="8.7", name="NVIDIA Jetson Orin Nano 8GB")
    with load(folder, machine=board) as model:
        assert model.choice.path.endswith("/jetson-orin-nano.engine")
        assert any("built for AGX Orin; here" in line for line in model.choice.passed_over)
    assert board.deserialized == ["jetson-orin-nano.engine"]


def test_an_engine_for_other_images_is_passed_over(
    built: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Runner] = []

    def other(self: Board, artifact: Artifact, *, threads: int | None = None) -> Runner:
        runner = ThisMachine.open(self, artifact) if artifact.path.suffix == ".onnx" else Channels()
        if isinstance(runner, Channels):
            runner.input_specs = (TensorSpec("input", ("batch", 3, 99, 99)),)
            opened.append(runner)
        return runner

    monkeypatch.setattr(Board, "open", other)
    with load(built[0], machine=Board()) as model:
        assert model.choice.backend == "onnxruntime"
        assert "the preprocessing gives" in model.choice.passed_over[0]
    (engine,) = opened
    with pytest.raises(UsageError, match="closed"):
        engine.infer({})


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_engine_in_a_zip(built: tuple[Path, Path], tmp_path: Path, kind: str) -> None:
    folder, engine = built
    whole = write_zip(folder, tmp_path / "whole.zip")
    damage, said = DAMAGE[kind]
    damage(engine)
    packed = tmp_path / "bundle.zip"
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(packed, "w") as target:
        for name in source.namelist():
            if (folder / name).is_file():
                target.write(folder / name, name)
    board = Board()
    with load(packed, machine=board) as model:
        assert model.choice.backend == "onnxruntime"
        assert said in model.choice.passed_over[0]
        assert not list(model.bundle.folder.rglob("*.engine")), "it was not even unpacked"
    assert board.deserialized == []
    with pytest.raises(BundleError, match=said):
        open_bundle(packed)


def test_damage_elsewhere_spoils_the_bundle(built: tuple[Path, Path]) -> None:
    folder, engine = built
    _flip(Path(f"{engine}.json"))
    with pytest.raises(BundleError, match="sha256"):
        load(folder, machine=Board())


def test_a_header_cut_short_before_it_was_stored(built: tuple[Path, Path], tmp_path: Path) -> None:
    # Its hash is right, so only the header can tell.
    folder, engine = built
    cut = tmp_path / engine.name
    cut.write_bytes(engine.read_bytes()[:20])
    facts = {"compute_capabilities": ["86"]}
    add_engine(folder, "rtx", cut, facts, backend="tensorrt_rtx", scheme="tensorrt")
    board = Board()
    with load(folder, machine=board) as model:
        assert model.choice.backend == "onnxruntime"
        assert "is no plan of this backend" in model.choice.passed_over[0]
    assert board.deserialized == []


def test_bytes_that_change_between_the_check_and_the_opening(built: tuple[Path, Path]) -> None:
    folder, engine = built
    board = Board()
    with open_bundle(folder) as bundle:
        _flip(engine)
        with load(bundle, machine=board) as model:
            assert model.choice.backend == "onnxruntime"
            assert "is not the file that was built" in model.choice.passed_over[0]
    assert board.deserialized == []


def test_another_release_and_another_gpu(built: tuple[Path, Path]) -> None:
    folder, engine = built
    board = Board(sm="8.9", packages={"tensorrt-rtx": "1.8.0.1"})
    with load(folder, machine=board) as model:
        assert model.choice.backend == "onnxruntime"
        told = model.choice.passed_over[0]
        path = engine.relative_to(folder).as_posix()
        version = model.bundle.manifest.artifact(path).meta["version"]
    assert told == (
        f"{path}: built for TensorRT-RTX {version} and SM 86; here TensorRT-RTX 1.8.0.1 and SM 89; "
        "--rebuild may build one"
    )
    with pytest.raises(UnavailableError, match=rf"built for TensorRT-RTX {version} and SM 86"):
        load(folder, artifact=path, machine=board)
    assert board.deserialized == []


def test_the_sidecar_says_what_it_was_built_from_and_on(built: tuple[Path, Path]) -> None:
    folder, engine = built
    with open_bundle(folder) as bundle:
        entry = bundle.manifest.artifact(engine.relative_to(folder).as_posix())
        sidecar = engine_sidecar(bundle, entry)
    facts = Board().facts
    assert sidecar["platform"] == entry.meta["platform"] == facts.platform
    assert sidecar["machine"] == facts.name
    assert {"version", "flags", "batch", "onnx_sha256", "layers", "packages"} <= sidecar.keys()
    assert sidecar["calibration"] == {}, "this bundle stores none"


def test_a_new_engine_heals_the_bundle(built: tuple[Path, Path]) -> None:
    folder, engine = built
    _flip(engine)
    build_engine(folder, "rtx", compute_capabilities=["86"])
    with load(folder, machine=Board()) as model:
        assert model.choice.backend == "tensorrt_rtx"
    open_bundle(folder).close()
