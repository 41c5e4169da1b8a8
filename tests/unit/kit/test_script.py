"""``build.sh`` run for real, with a trtexec that knows the options of its version alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgevision.backends.base import ShapeRange
from edgevision.kit import write_kit
from tests.conformance.graphs import float_net, quantized_net
from tests.unit.kit.conftest import Board, Finished, pytestmark  # noqa: F401

BUSYBOX = shutil.which("busybox")


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    write_kit(float_net(tmp_path / "net.onnx"), "jetson-orin-nano@6.2", tmp_path / "a kit")
    return tmp_path / "a kit"


def result_of(kit: Path) -> dict[str, bytes]:
    with tarfile.open(kit / "result.tar.gz") as archive:
        members = [member for member in archive if not member.isdir()]
        assert all(member.isreg() for member in members)
        return {
            member.name.removeprefix("result/"): archive.extractfile(member).read()  # type: ignore[union-attr]
            for member in members
        }


@pytest.mark.parametrize(
    ("version", "graph", "own"),
    [
        ("8.5.2", "model.onnx", ["--buildOnly", "--fp16"]),
        ("8.6.2", "model.onnx", ["--skipInference", "--fp16"]),
        ("10.3.0", "model.fp16.onnx", ["--skipInference", "--stronglyTyped"]),
        ("11.4.0", "model.fp16.onnx", ["--skipInference"]),
    ],
)
def test_each_trtexec_gets_the_options_that_it_documents(
    make_board: Callable[..., Board], kit: Path, version: str, graph: str, own: list[str]
) -> None:
    board = make_board(version)
    done = board.run(kit)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    build, measure = board.calls
    assert build[0] == f"--onnx={graph}"
    fixed = {"--memPoolSize=workspace:1024", "--profilingVerbosity=detailed"}
    shapes = {f"--{end}Shapes=images:{batch}x3x16x16" for end, batch in
              (("min", 1), ("opt", 1), ("max", 32))}  # fmt: skip
    files = {part for part in build[1:] if "work/build/" in part}
    assert {*build[1:]} == {*own} | fixed | shapes | files
    assert {"--warmUp=1000", "--duration=10", "--shapes=images:1x3x16x16"} <= {*measure}
    as_before = {"--includeDataTransfers", "--noCudaGraph", "--noSpinWait"}
    assert as_before & {*measure} == (as_before if version == "11.4.0" else set())
    assert "trtexec: GPU Compute Time:" in done.stdout


def test_what_the_user_chose_reaches_trtexec(board: Board, tmp_path: Path) -> None:
    write_kit(
        quantized_net(tmp_path / "net.onnx", opset=17), "jetson-orin-nx@6.0", tmp_path / "kit",
        batch=ShapeRange(4, 4, 4), workspace_mb=512, builder_level=2, dla_core=0, sparsity=True,
        version_compatible=True, refit=True,
    )  # fmt: skip
    board.use("8.6.2")
    done = board.run(tmp_path / "kit")
    assert done.returncode == 0, done.stderr
    build, measure = board.calls
    assert {
        "--memPoolSize=workspace:512", "--builderOptimizationLevel=2", "--useDLACore=0",
        "--allowGPUFallback", "--sparsity=enable", "--versionCompatible", "--refit", "--int8",
        "--fp16", "--minShapes=images:4x3x16x16", "--maxShapes=images:4x3x16x16",
    } <= {*build}  # fmt: skip
    assert {"--useDLACore=0", "--versionCompatible"} <= {*measure}


def test_an_option_that_this_trtexec_lacks_is_told_before_building(
    board: Board, tmp_path: Path
) -> None:
    net = float_net(tmp_path / "net.onnx", opset=17)
    write_kit(net, "jetson-orin-nano@6.0", tmp_path / "kit", builder_level=2)
    board.use("8.5.2")  # older than what that JetPack brings
    done = board.run(tmp_path / "kit")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "build.sh: this trtexec has no --builderOptimizationLevel, which the engine asked for "
        "needs: make the kit without"
    ]
    assert board.calls == []


def test_a_kit_of_flags_is_refused_where_types_come_from_the_graph(
    board: Board, tmp_path: Path
) -> None:
    net = float_net(tmp_path / "net.onnx", opset=17)
    write_kit(net, "jetson-orin-nano@5.1", tmp_path / "kit")
    done = board.run(tmp_path / "kit")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "--target NAME@JETPACK" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("shell", [("dash",), ("bash", "--posix"), (BUSYBOX or "busybox", "sh")])
def test_it_runs_in_each_shell(
    make_board: Callable[..., Board], kit: Path, shell: tuple[str, ...]
) -> None:
    if shutil.which(shell[0]) is None:
        pytest.skip(f"{shell[0]} is not here")
    done = make_board(shell=shell).run(kit)
    assert (done.returncode, done.stderr) == (0, "")
    assert {"kit.json", "model.engine", "times.json", "SHA256SUMS"} <= result_of(kit).keys()


def test_the_result_holds_the_devices_own_words(finished: Finished) -> None:
    result = result_of(finished.kit)
    assert result["device/proc/device-tree/model"].startswith(b"NVIDIA Jetson Orin Nano")
    assert b"REVISION: 4.3" in result["device/etc/nv_tegra_release"]
    assert result["packages.txt"] == b"ii  libnvinfer10 10.3.0.30-1+cuda12.5\n"
    assert result["nvpmodel.txt"] == b"NV Power Mode: 15W\n0\n"
    assert "device/sys/class/devfreq/17000000.gpu/max_freq" in result
    assert not [name for name in result if "temp" in name and not result[name]]


def test_damage_and_missing_things_are_told_in_one_line(board: Board, kit: Path) -> None:
    def refusal(**environment: str) -> str:
        done = board.run(kit, **environment)
        assert (done.returncode, done.stdout) == (1, "")
        (line,) = done.stderr.splitlines()
        return line

    assert "'/no/trtexec' cannot be run" in refusal(TRTEXEC="/no/trtexec")
    broken = board.tool("broken", "echo 'error while loading shared libraries: libnvinfer.so.10'")
    assert "cannot be used: error while loading" in refusal(TRTEXEC=str(broken))
    graph = kit / "model.fp16.onnx"
    whole = graph.read_bytes()
    graph.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "the kit is damaged (model.fp16.onnx: FAILED)" in refusal()
    graph.unlink()
    assert "the kit is damaged (model.fp16.onnx: FAILED" in refusal()
    (kit / "options.txt").unlink()
    assert "'options.txt' is missing" in refusal()
    assert board.calls == []
    assert not (kit / "result").exists()


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        ("build", "Could not find any implementation"),
        pytest.param("memory", "the memory was used up", marks=pytest.mark.slow),
        pytest.param("measure", "out of memory", marks=pytest.mark.slow),
    ],
)
def test_a_failure_shows_its_reason_and_leaves_no_result(
    board: Board, kit: Path, failure: str, said: str
) -> None:
    done = board.run(kit, FAKE_FAILS=failure)
    assert done.returncode == 1
    assert said in done.stderr
    assert "all that it said is in work/" in done.stderr
    assert not (kit / "result").exists()
    assert not (kit / "result.tar.gz").exists()
    assert board.run(kit).returncode == 0, "the next run carries on"
    assert len(board.calls) == 3


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.02)


@pytest.mark.slow
def test_stopped_while_building_it_ends_trtexec_and_builds_anew(board: Board, kit: Path) -> None:
    process = board.start(kit, FAKE_BUILD_SECONDS="60")
    _wait_for(kit / "work/build/model.engine")
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - begin < 20, "trtexec was ended too"
    assert "run it again to carry on" in err
    done = board.run(kit)
    assert done.returncode == 0, done.stderr
    assert result_of(kit)["model.engine"].startswith(b"ftrt" + bytes(20)), "not the half one"


@pytest.mark.slow
def test_killed_while_measuring_it_keeps_the_engine_and_the_last_result(
    board: Board, kit: Path
) -> None:
    assert board.run(kit).returncode == 0
    before = (kit / "result.tar.gz").read_bytes()
    process = board.start(kit, FAKE_MEASURE_SECONDS="2")
    _wait_for(kit / "work/result/measure.log")
    process.kill()  # nothing can be tidied up
    process.wait()
    for pipe in (process.stdout, process.stderr):
        assert pipe is not None
        pipe.close()
    second = board.run(kit)
    assert second.returncode == 1, "trtexec of the killed run still measures"
    assert "already" in second.stderr
    assert (kit / "result.tar.gz").read_bytes() == before
    while "already" in (done := board.run(kit)).stderr:
        time.sleep(0.1)
    assert done.returncode == 0, done.stderr
    assert "built already" in done.stdout
    assert [call[0].partition("=")[0] for call in board.calls] == [
        "--onnx", "--loadEngine", "--loadEngine", "--loadEngine",
    ]  # fmt: skip


@pytest.mark.slow
def test_other_settings_build_anew_without_the_old_timings(board: Board, kit: Path) -> None:
    assert board.run(kit).returncode == 0
    board.tool("nvpmodel", "echo 'NV Power Mode: MAXN_SUPER'; echo 2")
    assert board.run(kit).returncode == 0
    builds = [call for call in board.calls if call[0].startswith("--onnx")]
    assert len(builds) == 2
    assert b"timing cache from" not in result_of(kit)["build.log"]
    shutil.rmtree(kit / "work/build")
    assert board.run(kit).returncode == 0
    assert b"timing cache from" in result_of(kit)["build.log"], "of the same settings it is used"


@pytest.mark.slow
def test_an_engine_that_was_changed_after_its_build_is_built_anew(board: Board, kit: Path) -> None:
    assert board.run(kit).returncode == 0
    whole = result_of(kit)["model.engine"]
    with (kit / "work/build/model.engine").open("r+b") as engine:
        engine.write(b"half")
    assert board.run(kit).returncode == 0
    assert result_of(kit)["model.engine"] == whole


@pytest.mark.slow
def test_it_writes_nothing_outside_its_folder(board: Board, kit: Path) -> None:
    def files() -> set[Path]:
        return {path for path in board.folder.rglob("*") if path.name != "calls"}

    before = files()
    os.chmod(board.root, 0o555)  # noqa: PTH101
    assert board.run(kit).returncode == 0
    os.chmod(board.root, 0o755)  # noqa: PTH101
    assert files() == before
    assert json.loads((kit / "kit.json").read_text())["source"]["path"] == "net.onnx"
