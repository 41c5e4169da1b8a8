from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edgevision.devices
import edgevision.devices.local
import edgevision.targets.loader
from edgevision.backends import get_backend
from edgevision.bundle import Verdict, add_engine, open_bundle
from edgevision.devices import this_machine
from edgevision.errors import BundleError, UsageError
from edgevision.runtime import load
from edgevision.runtime.golden import check_golden

Make = Callable[..., Path]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes this machine look like another one to every part that asks."""

    def become(**facts: Any) -> None:
        other = dataclasses.replace(this_machine(), **facts)
        for module in (edgevision.devices, edgevision.devices.local, edgevision.targets.loader):
            monkeypatch.setattr(module, "this_machine", lambda: other)

    return become


def test_shipped_graph_of_the_cpus_scheme(make_bundle: Make, machine: Callable[..., None]) -> None:
    machine(cpu_features=("avx2", "avx512_vnni"))
    with load(make_bundle(scheme="x86-vnni")) as model:
        assert model.choice.path == "model.int8.onnx"
        assert model.choice.scheme == "x86-vnni"
        assert "scheme x86-vnni" in model.choice.reason
        assert model.choice.passed_over == ()


def test_baseline_where_the_cpu_lacks_the_instructions(
    make_bundle: Make, machine: Callable[..., None]
) -> None:
    machine(cpu_features=("avx2",), name="Old CPU")
    with load(make_bundle(scheme="x86-vnni")) as model:
        assert model.choice.path == "model.fp32.onnx"
        assert "Old CPU" in model.choice.passed_over[0]
        assert "x86-vnni" in str(model.choice)


def test_candidate_of_the_cpus_scheme_before_the_baseline(
    make_bundle: Make, machine: Callable[..., None]
) -> None:
    machine(cpu_features=("avx_vnni",))
    with load(make_bundle(scheme="tensorrt", candidate_scheme="x86-vnni")) as model:
        assert model.choice.path == "model.other.onnx"
        assert "model.int8.onnx" in model.choice.passed_over[0]


def test_float_graph_that_ships_runs_anywhere(
    make_bundle: Make, machine: Callable[..., None]
) -> None:
    machine(cpu_features=())
    with load(make_bundle(scheme=None)) as model:
        assert model.choice.path == "model.int8.onnx"


def test_engines_of_other_machines_are_passed_over(make_bundle: Make, tmp_path: Path) -> None:
    folder = make_bundle()
    (tmp_path / "model.engine").write_bytes(b"an engine")
    facts = {"compute_capabilities": ["87"]}
    add_engine(folder, "orin", tmp_path / "model.engine", facts, backend="tensorrt_rtx")
    add_engine(folder, "gpu", tmp_path / "model.engine", facts, backend="no-such-backend")
    with load(folder) as model:
        assert model.choice.path == "model.int8.onnx"
        assert len(model.choice.passed_over) == 2
        assert "no-such-backend" in " ".join(model.choice.passed_over)


def test_a_fitting_engine_that_does_not_open_falls_back(
    make_bundle: Make,
    tmp_path: Path,
    machine: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # ONNX Runtime stands in for the engine's backend: it runs here, and refuses the file.
    machine(compute_capability="8.7")
    folder = make_bundle()
    (tmp_path / "model.engine").write_bytes(b"not for this driver")
    facts = {"compute_capabilities": ["87"]}
    entry = add_engine(folder, "orin", tmp_path / "model.engine", facts, backend="onnxruntime")
    with load(folder) as model:
        assert model.choice.path == "model.int8.onnx"
        assert model.choice.passed_over[0].startswith(entry.path)
    assert "does not open here" in caplog.text
    machine(compute_capability="8.6")
    with load(folder) as model:
        assert "built for SM 87; here SM 86" in model.choice.passed_over[0]


def test_a_graph_runs_on_the_backend_that_it_was_measured_on(
    make_bundle: Make, machine: Callable[..., None]
) -> None:
    _require_openvino()
    folder = make_bundle(scheme="openvino", backend="openvino")
    machine(cpu_features=("avx2", "avx_vnni"))
    with load(folder) as model:
        assert (model.choice.path, model.choice.backend) == ("model.int8.onnx", "openvino")
        assert "scheme openvino" in model.choice.reason
        assert type(model.runner).__name__ == "OpenVINORunner"
    assert check_golden(open_bundle(folder)).ok
    machine(cpu_features=("avx2",), name="Old CPU")
    with load(folder) as model:
        assert (model.choice.path, model.choice.backend) == ("model.fp32.onnx", "openvino")
        assert "Old CPU) is none" in model.choice.passed_over[0]


def test_without_that_backend_the_baseline_runs_and_the_reason_is_told(
    make_bundle: Make, machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(cpu_features=("avx512_vnni",))
    monkeypatch.setitem(sys.modules, "openvino", None)
    folder = make_bundle(scheme="openvino", backend="openvino")
    with load(folder) as model:
        assert (model.choice.path, model.choice.backend) == ("model.fp32.onnx", "onnxruntime")
        assert "not on openvino" in model.choice.reason
        (told,) = model.choice.passed_over
    assert told.startswith("model.int8.onnx: openvino cannot be imported")
    assert "pip install 'edgevision[openvino]'" in told
    with load(folder, artifact="shipped") as model:  # by name ONNX Runtime runs it all the same
        assert (model.choice.path, model.choice.backend) == ("model.int8.onnx", "onnxruntime")
        assert model.choice.reason == "asked for; not on openvino, which it was measured on"


def test_a_graph_of_a_backend_of_the_future_is_passed_over(make_bundle: Make) -> None:
    with load(make_bundle(scheme="openvino", backend="abacus")) as model:
        assert (model.choice.path, model.choice.backend) == ("model.fp32.onnx", "onnxruntime")
        assert "'abacus' is unknown to this version" in model.choice.passed_over[0]


def test_a_graph_that_its_backend_refuses_here_is_passed_over(
    make_bundle: Make, machine: Callable[..., None]
) -> None:
    _require_openvino()
    machine(cpu_features=("avx512_vnni",))
    folder = make_bundle(scheme="openvino", backend="openvino", product="TransposeMatMul")
    with load(folder) as model:
        assert (model.choice.path, model.choice.backend) == ("model.fp32.onnx", "openvino")
        assert "TransposeMatMul" in model.choice.passed_over[0]


def _require_openvino() -> None:
    found = get_backend("openvino").can_run()
    if not found.ok:
        pytest.skip(found.reason)


def test_an_engine_of_unproven_accuracy_runs_only_when_named(
    make_bundle: Make, tmp_path: Path
) -> None:
    folder = make_bundle()
    facts: dict[str, Any] = {}
    graph = folder / "model.int8.onnx"  # ONNX Runtime plays the engine's backend
    entry = add_engine(folder, "a", graph, facts, backend="onnxruntime", role=None)
    with load(folder) as model:
        assert model.choice.path == "model.int8.onnx"
        assert model.choice.passed_over == (
            f"{entry.path}: its accuracy was never proven in this bundle; name it to run it",
        )
    with load(folder, artifact=entry.path) as model:
        assert model.choice.path == entry.path
    shipped = add_engine(folder, "b", graph, facts, backend="onnxruntime")
    with load(folder) as model:
        assert model.choice.path == shipped.path, "the proven engine comes first"
        assert model.choice.passed_over == ()


def test_a_failed_verdict_puts_the_baseline_first(make_bundle: Make) -> None:
    reasons = ("top1 dropped by 3 points, 1 is allowed", "keep the head in FP32")
    folder = make_bundle(verdict=Verdict(passed=False, exit_code=4, reasons=reasons))
    add_engine(folder, "a", folder / "model.int8.onnx", {}, backend="onnxruntime")
    with load(folder) as model:
        assert model.choice.path == "model.fp32.onnx"
        assert reasons[0] in model.choice.reason
        assert len(model.choice.passed_over) == 2, "the engine and the shipped graph"
        assert all(reasons[0] in line for line in model.choice.passed_over)
    with load(folder, artifact="shipped") as model:
        assert model.choice.path == "model.int8.onnx"
    with open_bundle(folder) as opened:
        checked = {check.artifact for check in check_golden(opened).checks}
    assert {"model.fp32.onnx", "model.int8.onnx"} <= checked, "golden vectors still hold for all"


def test_a_passed_verdict_changes_nothing(make_bundle: Make) -> None:
    with load(make_bundle(verdict=Verdict(passed=True, exit_code=0))) as model:
        assert model.choice.path == "model.int8.onnx"


def test_asking_for_an_artifact(make_bundle: Make) -> None:
    folder = make_bundle()
    for asked, path in (
        ("baseline", "model.fp32.onnx"),
        ("shipped", "model.int8.onnx"),
        ("model.fp32.onnx", "model.fp32.onnx"),
    ):
        with load(folder, artifact=asked) as model:
            assert model.choice.path == path
            assert model.choice.reason == "asked for"
    with pytest.raises(BundleError, match=r"Runnable: model.fp32.onnx, model.int8.onnx"):
        load(folder, artifact="other.onnx")
    with pytest.raises(UsageError, match="cannot be run"):
        load(folder, artifact="golden/tensor.npy")
    with pytest.raises(UsageError, match="at least 1"):
        load(folder, threads=0)
