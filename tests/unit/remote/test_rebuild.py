"""``--rebuild`` at the other end of a connection: built there, brought into the bundle here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgevision.backends import get_backend
from edgevision.bundle import open_bundle
from edgevision.cli._rebuild import machine_with_engine
from edgevision.errors import UsageError
from edgevision.pipeline.rebuild import rebuild_engine
from edgevision.remote import connect
from edgevision.runtime import load
from tests.conftest import Cli
from tests.unit.remote.conftest import Server

pytestmark = pytest.mark.skipif(
    not get_backend("tensorrt_rtx").is_available().ok, reason="tensorrt-rtx is not installed"
)


@pytest.mark.slow
def test_an_engine_is_built_there(server: Server, engine_bundle: Path) -> None:
    bundle = engine_bundle
    phases = []
    with connect(server.url, **server.options) as device:
        # The machine there has no GPU; all but its word that it has one is what it does.
        device.survey["machine"] |= {"gpu": "a GPU", "compute_capability": "8.9"}
        device.survey["backends"]["tensorrt_rtx"]["runs"] = {"ok": True, "reason": "pretended"}
        with load(bundle, machine=device) as model:
            assert "built for TensorRT-RTX" in model.choice.passed_over[0]
            assert "--rebuild may build one" in model.choice.passed_over[0]
        found = rebuild_engine(
            bundle, machine=device, progress=lambda *told: phases.append(told[0])
        )
        assert found.engine is not None, found.reason
        assert any("fetching" in phase for phase in phases)
        with open_bundle(bundle) as opened:
            (entry,) = [e for e in opened.manifest.runnable() if e.kind == "engine"]
        assert "89" in entry.meta["compute_capabilities"]  # type: ignore[operator]
        # Without a GPU it does not open: the next artifact runs there, and the reason is told.
        with load(bundle, machine=device) as model:
            assert model.choice.backend == "onnxruntime"
            (told,) = [line for line in model.choice.passed_over if line.startswith(entry.path)]
            assert "no NVIDIA GPU" in told


@pytest.mark.slow
def test_the_command_goes_on_where_none_can_be_built(
    cli: Cli, board: str, make_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    bundle = make_bundle(scheme="tensorrt")
    (tmp_path / "photos").mkdir()
    with open_bundle(bundle) as opened:
        photo = opened.path("golden/inputs/000.png").read_bytes()
    (tmp_path / "photos" / "a.png").write_bytes(photo)
    done = cli("run", bundle, "--source", tmp_path / "photos", "--device", board, "--rebuild")
    assert done.returncode == 0, done.stderr
    assert "No engine was built: " in done.stderr
    assert "a.png" in done.stdout


def test_it_is_not_for_a_named_artifact(tmp_path: Path) -> None:
    asked = machine_with_engine(tmp_path, None, rebuild=True, artifact="shipped")
    with pytest.raises(UsageError, match="not for a named artifact"), asked:
        pass
