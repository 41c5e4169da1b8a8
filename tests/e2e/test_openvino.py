"""The target cpu-openvino from pruning to a measured time to the bundle, run and verified."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgevision.backends import get_backend
from edgevision.benchmark import BenchConfig
from edgevision.bundle import open_bundle
from edgevision.pipeline import CompressResult, compress, timing
from edgevision.pipeline.bench import bench_bundle
from edgevision.pipeline.check import verify_bundle
from edgevision.pipeline.layers import bundle_layers
from edgevision.runtime import load
from tests.e2e.small import RECIPE

AVAILABLE = get_backend("openvino").can_run()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not AVAILABLE.ok, reason=AVAILABLE.reason),
]
INT8 = "model.int8.openvino.onnx"
MIXED = "model.mixed.openvino.onnx"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, image_folder: Path) -> CompressResult:
    folder = tmp_path_factory.mktemp("openvino")
    prune = {"speedup": 1.2, "fine_tune": {"epochs": 1}}
    overrides = {**RECIPE, "target": "cpu-openvino", "prune": prune}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEVISION_CACHE", str(folder / "cache"))
        # Fewer and shorter measurements than deserve trust.
        patch.setattr(timing, "NETWORKS", 16)
        patch.setattr(timing, "SECONDS", 2.0)
        patch.setattr(timing, "CONFIRM_SECONDS", 0.5)
        return compress(
            RECIPE["model"], data=str(image_folder), overrides=overrides, out=folder / "out"
        )


def test_every_measurement_was_taken_on_openvino(done: CompressResult) -> None:
    assert done.stages["profile"].json("latency.json")["backend"].startswith("openvino")
    assert done.figures["accuracy_on"] == "openvino"
    assert done.figures["comparison"] is not None
    with open_bundle(done.bundle) as bundle:
        backends = {entry.path: entry.backend for entry in bundle.manifest.runnable()}
    assert backends["model.fp32.onnx"] == "openvino"
    assert backends[INT8] == "openvino"
    assert backends["model.int8.x86-vnni.onnx"] == "onnxruntime", "made for another target"


def test_the_runtime_takes_it_and_computes_what_was_promised(
    done: CompressResult, image_folder: Path
) -> None:
    with load(done.bundle, artifact="shipped", threads=1) as model:
        assert model.choice.backend == "openvino"
        results = list(model.predict_folder(image_folder / "validation"))
    assert all(result.error is None for result in results)
    assert verify_bundle(done.bundle, threads=1).golden.ok
    report = bench_bundle(
        done.bundle, artifact="shipped", threads=1, config=BenchConfig(seconds=1.0)
    )
    assert report.latency is not None


def test_where_openvino_is_missing_the_baseline_runs_and_it_says_why(
    done: CompressResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with load(done.bundle) as model:
        assert (model.choice.path, model.choice.backend) == ("model.fp32.onnx", "onnxruntime")
    told = str(model.choice)
    assert "openvino cannot be imported" in told
    assert "edgevision[openvino]" in told
    result = verify_bundle(done.bundle, threads=1).golden
    assert result.ok, "ONNX Runtime gives the baseline's golden outputs as well"
    assert any("openvino cannot be imported" in line for line in result.skipped)


def test_the_layers_tell_what_ran_on_integers(done: CompressResult) -> None:
    with open_bundle(done.bundle) as bundle:
        rows = bundle_layers(bundle)
    shipped = rows[MIXED if MIXED in rows else INT8]
    used = {row.used for row in shipped if row.operator == "Conv" and row.asked == "int8"}
    assert used == {"int8"}
    assert any(row.time_ms for row in shipped)
    assert {row.used for row in rows["model.fp32.onnx"]} == {"fp32"}
