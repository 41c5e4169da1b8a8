"""``--rebuild`` over real builds of TensorRT-RTX; only the GPU that opens them is a stand-in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgevision.backends import get_backend
from edgevision.bundle import Verdict, add_engine, open_bundle, write_zip
from edgevision.pipeline.rebuild import rebuild_engine, target_for
from edgevision.runtime import load
from edgevision.targets import Target
from tests.unit.runtime.boards import Board

Make = Callable[..., Path]

pytestmark = pytest.mark.skipif(
    not get_backend("tensorrt_rtx").is_available().ok, reason="tensorrt-rtx is not installed"
)


@pytest.mark.parametrize("packed", [False, True])
def test_an_engine_of_another_gpu_gives_way_to_one_that_runs(
    engine_bundle: Path, tmp_path: Path, packed: bool
) -> None:
    place = write_zip(engine_bundle, tmp_path / "bundle.zip") if packed else engine_bundle
    board, phases = Board(sm="8.9"), []
    with load(place, machine=board) as model:
        assert model.choice.passed_over[0].endswith("--rebuild may build one")
    found = rebuild_engine(place, machine=board, progress=lambda *told: phases.append(told[0]))
    assert found.engine is not None, found.reason
    assert phases
    with load(place, machine=board) as model:
        assert found.engine.place.endswith(model.choice.path)
        assert model.choice.backend == "tensorrt_rtx"
        assert model.choice.passed_over == ()
    again = rebuild_engine(place, machine=board)
    assert again.engine is None, "that one runs"
    assert again.reason.endswith(".engine runs there")


def test_a_damaged_engine_is_built_anew(engine_bundle: Path) -> None:
    folder = engine_bundle
    (engine,) = folder.rglob("*.engine")
    engine.write_bytes(engine.read_bytes()[:-1])
    assert rebuild_engine(folder, machine=Board()).engine is not None
    open_bundle(folder).close()
    with load(folder, machine=Board()) as model:
        assert model.choice.backend == "tensorrt_rtx"


def test_an_engine_that_fits_and_does_not_open_is_built_anew(
    make_bundle: Make, tmp_path: Path
) -> None:
    folder = make_bundle(scheme="tensorrt")
    cut = tmp_path / "cut.engine"
    cut.write_bytes(b"vtrt")
    facts = {"compute_capabilities": ["86"]}
    add_engine(folder, "rtx", cut, facts, backend="tensorrt_rtx", scheme="tensorrt")
    assert rebuild_engine(folder, machine=Board()).engine is not None
    with load(folder, machine=Board()) as model:
        assert model.choice.path.endswith("model.int8.engine")


def test_a_fixed_batch_is_built_as_it_is(make_bundle: Make) -> None:
    folder = make_bundle(scheme="tensorrt", batch=2)
    found = rebuild_engine(folder, machine=Board())
    assert found.engine is not None
    assert found.engine.sidecar["batch"] == {"min": 2, "opt": 2, "max": 2}


def test_a_bundle_that_failed_gets_none(make_bundle: Make) -> None:
    failed = Verdict(passed=False, exit_code=4, reasons=("too far",))
    folder = make_bundle(scheme="tensorrt", verdict=failed)
    assert "verdict failed" in rebuild_engine(folder, machine=Board()).reason
    assert not list(folder.rglob("*.engine"))


def test_a_machine_that_builds_none_is_told_why(engine_bundle: Path) -> None:
    folder = engine_bundle
    for board, reason in (
        (Board(sdks=()), "rtx: pretended"),
        (Board(sm="7.5"), "rtx: its GPU is of compute capability 75"),
    ):
        before = (folder / "manifest.json").read_bytes()
        assert rebuild_engine(folder, machine=board).reason == reason
        assert (folder / "manifest.json").read_bytes() == before
    with load(folder, machine=Board(sdks=())) as model:
        assert "--rebuild" not in model.choice.passed_over[0]


def test_a_graph_of_another_scheme_is_not_built(make_bundle: Make) -> None:
    found = rebuild_engine(make_bundle(scheme="x86-vnni"), machine=Board())
    assert found.reason == "no target whose engines it builds is this machine"


def test_a_graph_of_unproven_accuracy_is_not_built(engine_bundle: Path) -> None:
    manifest = engine_bundle / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"role": "shipped"', '"role": null'))
    found = rebuild_engine(engine_bundle, machine=Board(sm="8.9"))
    assert "'model.int8.onnx' was never proven" in found.reason


def test_a_board_gets_an_engine_of_its_own_target(engine_bundle: Path) -> None:
    name = "NVIDIA Jetson Orin Nano Developer Kit"
    orin = Board(sm="8.7", sdks=("tensorrt",), name=name)
    workstation = Board(sm="8.6", sdks=("tensorrt",))
    with open_bundle(engine_bundle) as bundle:
        found = [target_for(bundle, board) for board in (orin, workstation, Board())]
    assert [one.name for one in found if isinstance(one, Target)] == [
        "jetson-orin-nano",
        "gpu",
        "rtx",
    ]
