"""``--device``: commands whose work is done at the other end of a connection."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgevision.errors import RecipeError, UsageError
from edgevision.pipeline.fleet import read_fleet
from tests.conformance.graphs import float_net
from tests.conftest import Cli
from tests.unit.remote.conftest import Server


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (2, 20, 24, 3), np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{number}.png")
    return folder


def test_run_predicts_as_here(cli: Cli, board: str, bundle: Path, photos: Path) -> None:
    here = cli("run", bundle, "--source", photos, "--json")
    there = cli("run", bundle, "--source", photos, "--json", "--device", board)
    assert there.returncode == 0, there.stderr
    assert there.stdout == here.stdout
    assert len(there.stdout.splitlines()) == 2
    assert "On board:" in there.stderr


def test_bench_measures_there(
    cli: Cli, board: str, server: Server, bundle: Path, tmp_path: Path
) -> None:
    done = cli(
        "bench", bundle, "--device", board, "--seconds", "0.5", "--threads", "1",
        "--out", tmp_path / "bench",
    )  # fmt: skip
    assert done.returncode in (0, 5), done.stderr
    assert "Device latency" in done.stdout
    assert "End-to-end" not in done.stdout
    report = json.loads((tmp_path / "bench" / "report.json").read_text())
    assert report["end_to_end"] is None
    # Set for the server's sessions alone: the figures are of a process of its.
    assert report["environment"]["threads_env"]["MKL_NUM_THREADS"] == "3"
    assert list((server.cache / "files").glob("*.onnx"))


def test_verify_checks_golden_vectors_there(cli: Cli, board: str, bundle: Path) -> None:
    done = cli("verify", bundle, "--device", board, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["golden"]["checks"]


def test_doctor_tells_of_the_device(cli: Cli, board: str) -> None:
    done = cli("doctor", "--device", board)
    assert done.returncode == 0, done.stderr
    assert "Runs there" in done.stdout
    found = json.loads(cli("doctor", "--device", board, "--json").stdout)
    assert found["backends"]["onnxruntime"]["runs"]["ok"]


def test_a_wrong_device_is_told(cli: Cli, bundle: Path) -> None:
    done = cli("bench", bundle, "--device", "board")
    assert done.returncode == 2
    assert "wanted: ssh://" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow  # sixty-four networks and their layers
def test_profile_times_networks_there(cli: Cli, board: str, server: Server, tmp_path: Path) -> None:
    done = cli(
        "profile", "plain-cnn", "--data", "fashion-mnist-mini", "--target", "cpu",
        "--device", board, "--seconds", "2", "--maps", "1", "--out", tmp_path / "profile",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "profile" / "profile.html").is_file()
    assert "ESTIMATE" not in done.stdout
    assert len(list((server.cache / "files").glob("*.onnx"))) > 64


def test_build_engine_brings_the_engine_back(
    cli: Cli, board: str, server: Server, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx")
    model = float_net(tmp_path / "net.onnx")
    out = tmp_path / "net.engine"
    done = cli(
        "build-engine", model, "--target", "rtx", "--compute-capability", "86",
        "--device", board, "--out", out,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert out.read_bytes()[:4] == b"vtrt"
    sidecar = json.loads(Path(f"{out}.json").read_text())
    assert sidecar["compute_capabilities"] == ["86"]
    assert sidecar["layers"]
    assert not list((server.cache / "builds").iterdir())


def test_a_board_of_another_kind_is_refused(cli: Cli, board: str, tmp_path: Path) -> None:
    model = float_net(tmp_path / "net.onnx")
    done = cli("build-engine", model, "--target", "jetson-orin-nano", "--device", board)
    assert done.returncode == 6
    assert "on board: it is no Orin Nano but" in " ".join(done.stderr.split())


def test_a_fleet_gives_one_table(cli: Cli, board: str, bundle: Path, tmp_path: Path) -> None:
    fleet = tmp_path / "devices.yaml"
    fleet.write_text(f"one: {{device: '{board}', threads: 1}}\nlost: ssh://nowhere.invalid\n")
    done = cli("bench", bundle, "--fleet", fleet, "--seconds", "0.5", "--out", tmp_path / "bench")
    assert done.returncode == 6
    assert "1 of 2 devices were not measured: lost" in done.stderr
    assert "one" in done.stdout
    assert "times faster" in done.stdout
    assert (tmp_path / "bench" / "one" / "report.html").is_file()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no devices"),
        ("- ssh://a", "names no devices"),
        ("a: {device: 'ssh://a', thread: 2}", "a.thread: Extra inputs"),
        ("a: {threads: 0, device: 'ssh://a'}", "a.threads"),
        ("a: [1]", "a: Input should be"),
        ("a: nano", "no address"),
        ("../a: ssh://a", "named by letters"),
        ("a: {", "while parsing"),
    ],
)
def test_bad_fleets(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "devices.yaml"
    path.write_text(text)
    with pytest.raises((RecipeError, UsageError), match=said):
        read_fleet(path)
