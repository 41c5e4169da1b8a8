"""An accuracy budget that INT8 throughout misses is kept: by training, or with layers in float."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgevision.bundle import open_bundle
from edgevision.pipeline import compress
from edgevision.quantization.calibrators import CALIBRATORS
from edgevision.targets import load_target
from tests.e2e.small import RECIPE


def compressed(
    out: Path, data: Path, toy: str, budget: float | None = None, **quantize: Any
) -> Any:
    """The small network with the ranges of ``toy``; ``budget`` None for the recipe's own."""
    verify = {} if budget is None else {"verify": {**RECIPE["verify"], "max_accuracy_drop": budget}}
    section = {"images": 8, "method": "clipped", **quantize}
    overrides = {**RECIPE, "prune": None, "quantize": section, **verify}
    CALIBRATORS.add("clipped", f"tests.e2e.toys.calibrator:{toy}")
    try:
        return compress(RECIPE["model"], data=str(data), overrides=overrides, out=out)
    finally:
        CALIBRATORS.remove("clipped")


def test_layers_that_cost_accuracy_go_back_to_float(tmp_path: Path, image_folder: Path) -> None:
    """Ranges of the first layers a sixteenth of what they should be: those must leave INT8."""
    result = compressed(tmp_path, image_folder, "ClippedAtFirst", 5, qat={"when": "never"})
    told = result.stages["recover"].json("recover.json")
    assert told["baseline"] - told["int8"] > 5, "the case is not as bad as it must be"
    counts = {row["layers_in_float"]: row["accuracy"] for row in told["tried"]}
    chosen = len(told["keep_float"])
    assert chosen >= 1
    assert told["baseline"] - counts[chosen] <= 5
    if chosen > 1:
        assert told["baseline"] - counts[chosen - 1] > 5
    assert result.verdict.exit_code in (0, 5)  # so small a network may gain nothing
    scheme = load_target("cpu").scheme
    assert all(told[scheme]["asked"][name] == "float" for name in told["keep_float"])
    with open_bundle(result.bundle) as bundle:
        entry = bundle.manifest.artifact(f"model.int8.{scheme}.onnx")
        in_bundle = bundle.path(entry).read_bytes()
    assert in_bundle == result.stages["recover"].path(entry.path).read_bytes()


def test_another_calibrator_is_tried_first(tmp_path: Path, image_folder: Path) -> None:
    """Ranges that clip far too much are chosen anew from the histograms, without training."""
    result = compressed(tmp_path, image_folder, "ClippedHistogram", 5, regions=False)
    stage = result.stages["recover"]
    told = stage.json("recover.json")
    assert told["baseline"] - told["int8"] > 5, "the case is not as bad as it must be"
    assert told["baseline"] - told["ranges"][told["kept"]] <= 5
    assert "qat" not in told
    assert not told["keep_float"]
    name = f"model.int8.{load_target('cpu').scheme}.onnx"
    with open_bundle(result.bundle) as bundle:
        table = json.loads(bundle.path(bundle.manifest.artifact("calibration.json")).read_bytes())
        graph = bundle.path(bundle.manifest.artifact(name)).read_bytes()
        report = json.loads(bundle.path(bundle.manifest.artifact("report.json")).read_bytes())
    shown = report["quantization"]
    assert table["method"] == told["kept"]
    assert graph == stage.path(name).read_bytes()
    row = next(r for r in result.figures["rows"] if r["name"] == name)
    assert abs(row["accuracy"] - told["ranges"][told["kept"]]) < 1e-6
    assert shown["method"] == told["kept"]
    assert f"clipped {told['int8']:.2f} %, " in shown["facts"]["tried"]
    assert shown["facts"]["ranges and weights from"] == told["kept"]


def test_training_with_quantization_ships_what_it_learned(
    tmp_path: Path, image_folder: Path
) -> None:
    """Ranges far too narrow are learned anew; asked for, training always runs."""
    train = {"epochs": 6, "learning_rate": 5e-3, "batch_size": 16}
    qat = {"when": "always", "train": train}
    result = compressed(tmp_path, image_folder, "ClippedAtFirst", regions=False, qat=qat)
    stage = result.stages["recover"]
    told = stage.json("recover.json")
    assert told["qat"] > told["int8"], "nothing was learned"
    scheme = load_target("cpu").scheme
    with open_bundle(result.bundle) as bundle:
        for name in (f"model.int8.{scheme}.onnx", "calibration.json"):
            entry = bundle.manifest.artifact(name)
            assert bundle.path(entry).read_bytes() == stage.path(name).read_bytes()
            before = result.stages["quantize"].path(name).read_bytes()
            assert bundle.path(entry).read_bytes() != before
    row = next(r for r in result.figures["rows"] if r["name"] == f"model.int8.{scheme}.onnx")
    assert abs(row["accuracy"] - told["qat"]) < 2
