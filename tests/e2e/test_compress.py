from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from edgevision.bundle import add_engine, open_bundle
from edgevision.pipeline import CompressResult, compress
from edgevision.recipe import load_recipe
from edgevision.runtime import load
from tests.e2e.small import without_times, write_recipe


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, image_folder: Path) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe"), image_folder)


@pytest.fixture(scope="module")
def done(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> CompressResult:
    return compress(load_recipe(recipe, {}), out=tmp_path_factory.mktemp("out"))


def again(recipe: Path, done: CompressResult) -> CompressResult:
    return compress(load_recipe(recipe, {}), out=done.bundle.parent)


def test_the_bundle_holds_what_was_promised(done: CompressResult) -> None:
    with open_bundle(done.bundle) as bundle:
        roles = {entry.path: entry.role for entry in bundle.manifest.runnable()}
        verdict = bundle.manifest.verdict
    assert roles["model.fp32.onnx"] == "baseline"
    assert "model.int8.tensorrt.onnx" in roles
    assert list(roles.values()).count("shipped") == 1
    assert verdict is not None
    assert verdict.accuracy is not None
    assert verdict.accuracy.n_images == 60
    assert (done.bundle / "calibration-set.json").is_file()
    assert "<script" not in done.report.read_text()


def test_it_predicts_through_the_runtime(done: CompressResult, image_folder: Path) -> None:
    with load(done.bundle) as model:
        results = list(model.predict_folder(image_folder / "validation"))
    assert len(results) == 60
    assert all(result.error is None for result in results)


def test_run_again_it_reuses_every_stage_and_leaves_the_bundle(
    recipe: Path, done: CompressResult
) -> None:
    engine = done.bundle.parent / "mine.engine"
    engine.write_bytes(b"an engine that the user built")
    add_engine(done.bundle, "cpu", engine, {"compute_capabilities": ["86"]}, backend="tensorrt")
    before = without_times(done.bundle)
    result = again(recipe, done)
    kept = [name for name, stage in result.stages.items() if stage.reused]
    # A busy machine may have left the speed unproven, which is then measured again.
    assert {"baseline", "prune", "export", "quantize", "build"} <= set(kept)
    if "bundle" in kept:
        assert without_times(result.bundle) == before


def test_the_report_tells_the_accuracy_of_each_round_of_pruning(done: CompressResult) -> None:
    report = json.loads((done.bundle / "report.json").read_bytes())
    figure = r"\d+\.\d\d %"
    expected = f"narrowed {figure}, recalibrated {figure}, fine-tuned {figure}"
    assert re.fullmatch(expected, report["pruning"]["facts"]["round 1"])


@pytest.mark.parametrize("damage", ["removed", "flipped"])
def test_a_lost_or_damaged_bundle_is_put_right(
    recipe: Path, done: CompressResult, damage: str
) -> None:
    if damage == "removed":
        shutil.rmtree(done.bundle)
    else:
        victim = done.bundle / "model.fp32.onnx"
        victim.write_bytes(victim.read_bytes()[:-1] + b"!")
    result = again(recipe, done)
    with open_bundle(result.bundle) as bundle:
        assert bundle.manifest.labels


def test_the_calibration_set_in_the_bundle_is_the_table_s(done: CompressResult) -> None:
    with open_bundle(done.bundle) as bundle:
        table = json.loads(bundle.path("calibration.json").read_bytes())
        entry = bundle.manifest.artifact("calibration-set.json")
        lineage = bundle.manifest.lineage.digests["calibration"]
    assert entry.sha256 == lineage == table["calibration_digest"]
