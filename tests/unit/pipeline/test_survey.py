from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from importlib import metadata

import pytest

from edgevision.backends import BACKENDS, get_backend
from edgevision.pipeline.survey import (
    backend_status,
    extras,
    graph_backend,
    runs_graphs,
    survey,
    target_status,
    timing_status,
)
from edgevision.targets import load_target, target_names
from edgevision.types import DeviceInfo

ORIN_NANO = DeviceInfo(
    "NVIDIA Jetson Orin Nano 8GB", "aarch64", "Linux", 6, 7443, (), "Orin", "8.7"
)


def test_the_survey_is_plain_json_over_everything() -> None:
    found = json.loads(json.dumps(survey().to_dict()))
    assert set(found["backends"]) == set(BACKENDS)
    assert {name.partition("@")[0] for name in found["targets"]} == set(target_names())
    assert found["targets"]["cpu"]["runs"]["ok"]
    assert (found["jetson"] is None) == (found["environment"]["jetson"] is None)
    for name, status in found["backends"].items():
        assert status["builds"]["reason"], name
        assert status["builds"]["ok"] or status["install"], f"{name}: how to get it"


def test_a_jetson_target_belongs_to_its_own_module() -> None:
    elsewhere = target_status(load_target("jetson-orin-nano"), DeviceInfo("PC", "x", "L", 1, 1))
    assert not elsewhere.builds.ok
    assert "Orin Nano itself" in elsewhere.builds.reason
    assert "device" in (elsewhere.hint or "")
    other_board = target_status(load_target("jetson-agx-orin"), ORIN_NANO)
    assert "AGX Orin itself" in other_board.builds.reason
    there = target_status(load_target("jetson-orin-nano"), ORIN_NANO)
    assert there.builds == backend_status("tensorrt").builds  # now only TensorRT decides


def test_the_way_to_times_leads_where_there_are_any(monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = DeviceInfo("PC", "x", "L", 1, 1)
    jetson = load_target("jetson-orin-nano")
    for machine in (elsewhere, ORIN_NANO):
        found = timing_status(jetson, machine)
        assert not found.ok
        assert "tensorrt, runs no ONNX graphs" in found.reason
        assert not found.hint, "on the device itself it is no better"
    board = jetson.model_copy(update={"backend": "onnxruntime"})
    assert timing_status(board, ORIN_NANO).ok
    assert timing_status(board, elsewhere).hint == "Run the command on the device."
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    missing = timing_status(board, ORIN_NANO)
    assert not missing.ok
    assert missing.hint == "Install it with: pip install edgevision"


def test_graphs_run_on_the_targets_own_backend_where_it_takes_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert graph_backend(load_target("cpu")) == "onnxruntime"
    gpu = load_target("gpu")
    assert not runs_graphs(gpu)
    assert graph_backend(gpu) == "onnxruntime"
    openvino = load_target("cpu-openvino")
    assert runs_graphs(openvino)
    if get_backend("openvino").can_run().ok:
        assert graph_backend(openvino) == "openvino"
        assert timing_status(openvino).ok
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert graph_backend(openvino) == "onnxruntime"
    assert "edgevision[openvino]" in timing_status(openvino).hint


def test_an_old_jetpack_points_to_trtexec() -> None:
    status = target_status(load_target("jetson-orin-nano@5.1"), ORIN_NANO)
    assert "Python 3.8" in status.builds.reason
    assert "trtexec" in status.builds.reason


def test_a_gpu_that_the_target_does_not_serve_cannot_run_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from edgevision.backends.tensorrt_rtx import TensorRTRTXBackend
    from edgevision.types import Availability

    monkeypatch.setattr(TensorRTRTXBackend, "can_run", lambda self: Availability(True, "here"))
    hopper = replace(ORIN_NANO, name="server", gpu="H200", compute_capability="9.0")
    ada = replace(hopper, gpu="RTX 4090", compute_capability="8.9")
    target = load_target("rtx")
    assert "90, not 80, 86, 89, 120, 121" in target_status(target, hopper).runs.reason
    assert target_status(target, ada).runs.ok


def test_a_float_target_says_why_it_has_no_scheme() -> None:
    old = DeviceInfo("old CPU", "x86_64", "Linux", 2, 1024, ("sse4_1",))
    status = target_status(load_target("cpu", machine=old), old)
    assert status.builds.ok
    assert "old CPU has none of avx512_vnni" in status.obstacles


def test_a_target_with_an_unknown_backend_is_told() -> None:
    target = load_target("cpu").model_copy(update={"backend": "onnxrutnime"})
    assert "Did you mean 'onnxruntime'?" in target_status(target).builds.reason


def test_the_extras_are_those_of_the_package() -> None:
    found = {extra.name: extra for extra in extras()}
    declared = set(metadata.metadata("edgevision").get_all("Provides-Extra") or [])
    assert set(found) <= declared
    assert {"train", "tensorrt", "tensorrt-rtx"} <= set(found)
    assert found["train"].packages["torch"] == metadata.version("torch")
    assert found["tensorrt"].is_complete == (found["tensorrt"].packages["tensorrt"] is not None)
    assert found["tensorrt"].install == "pip install 'edgevision[tensorrt]'"


def test_it_imports_without_the_heavy_packages() -> None:
    code = (
        "import sys\n"
        "import edgevision.cli.doctor, edgevision.cli.targets, edgevision.pipeline.survey\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'timm', 'datasets', 'tensorrt_rtx'}\n"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
