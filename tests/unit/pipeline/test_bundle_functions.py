"""The functions behind ``bench``, ``verify --data`` and ``inspect --layers``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgevision.benchmark import BenchConfig
from edgevision.benchmark.report_schema import (
    LayerRow,
    ModelSection,
    QuantizationSection,
    Report,
)
from edgevision.bundle import (
    AccuracyVerdict,
    BundleWriter,
    Lineage,
    Verdict,
    add_engine,
    open_bundle,
)
from edgevision.data import load_data
from edgevision.errors import AccuracyBudgetError, BundleError, DataError, InputError
from edgevision.pipeline.bench import bench_bundle
from edgevision.pipeline.check import verify_bundle
from edgevision.pipeline.layers import bundle_layers

Make = Callable[..., Path]
Paint = Callable[..., np.ndarray[Any, Any]]
LABELS = ("a-red", "b-green", "c-blue")  # sorted as the network's outputs are
QUICK = BenchConfig(seconds=0.2, min_rounds=20, max_rounds=60)


@pytest.fixture
def photos(tmp_path: Path, paint: Paint) -> Path:
    """Class folders; in validation one of the four red images is green."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for number, label in enumerate(LABELS):
            folder = tmp_path / "data" / split / label
            folder.mkdir(parents=True)
            for index in range(count):
                wrong = split == "val" and number == 0 and index == 0
                image = paint(1 if wrong else number).astype(np.int64)
                noisy = image + generator.integers(-20, 20, image.shape)
                Image.fromarray(noisy.astype(np.uint8)).save(folder / f"{split}{index}.png")
    return tmp_path / "data"


def _verdict(baseline: float, budget: float) -> Verdict:
    return Verdict(
        passed=True,
        exit_code=0,
        accuracy=AccuracyVerdict(
            metric="top1",
            baseline=baseline,
            candidate=baseline,
            drop=0.0,
            budget=budget,
            n_images=12,
        ),
    )


def _edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_accuracy_is_measured_again(make_bundle: Make, photos: Path) -> None:
    folder = make_bundle(verdict=_verdict(100.0, 10.0))
    with pytest.raises(DataError, match="the labels red, green, blue"):
        verify_bundle(folder, data=str(photos))
    _edit(folder, lambda m: m.update(labels=list(LABELS)))
    seen: list[tuple[int, int]] = []
    result = verify_bundle(folder, data=str(photos), progress=lambda *p: seen.append(p))
    assert result.accuracy is not None
    assert result.accuracy.value == pytest.approx(100 * 11 / 12), "one red image is green"
    assert result.accuracy.images == 12
    assert result.accuracy.same_images is None
    assert seen[-1] == (12, 12)
    result.raise_for_result()
    fingerprint = load_data(str(photos)).validation.fingerprint()
    for told, same in ((fingerprint, True), ("other", False)):
        _edit(folder, lambda m, told=told: m["lineage"].update(digests={"validation": told}))
        again = verify_bundle(folder, data=str(photos))
        assert again.accuracy is not None
        assert again.accuracy.same_images is same
    _edit(folder, lambda m: m["verdict"]["accuracy"].update(budget=5.0))
    with pytest.raises(
        AccuracyBudgetError, match=r"FP32 100\.00 %, here 91\.67 %, a drop of 8\.33"
    ):
        verify_bundle(folder, data=str(photos)).raise_for_result()


def test_far_outputs_are_an_error(bundle: Path) -> None:
    result = verify_bundle(bundle)
    result.raise_for_result()
    _edit(bundle, lambda m: m["golden"]["bounds"].update({"model.fp32.onnx": -1.0}))
    with pytest.raises(BundleError, match="golden vector"):
        verify_bundle(bundle).raise_for_result()


def test_bench_keeps_what_the_bundles_report_says(make_bundle: Make) -> None:
    folder = make_bundle(verdict=_verdict(91.0, 0.5))
    result = bench_bundle(folder, config=QUICK, batch=3)
    assert result.verdict.accuracy is not None
    assert result.verdict.accuracy.baseline == 91.0
    assert result.latency is not None
    assert result.latency.protocol["images_per_call"] == 3
    assert {row.role for row in result.sizes} == {"baseline", "shipped"}
    _add_report(folder, _stored(4))
    again = bench_bundle(folder, config=QUICK)
    assert again.title == "told by compress"
    assert again.verdict.latency is not None


@pytest.mark.parametrize("code", [4, 5])
def test_bench_never_mends_a_verdict(make_bundle: Make, code: int) -> None:
    folder = make_bundle()
    _add_report(folder, _stored(code))
    verdict = bench_bundle(folder, config=QUICK).verdict
    assert not verdict.passed
    assert verdict.exit_code == code
    assert verdict.reasons[0] == "too far or too slow"


def _stored(code: int) -> Report:
    return Report(
        title="told by compress",
        model=ModelSection(reference="m", task="classification"),
        target="cpu",
        verdict=_verdict(80.0, 1.0).model_copy(
            update={"exit_code": code, "passed": False, "reasons": ("too far or too slow",)}
        ),
    )


def _add_report(folder: Path, report: Report) -> None:
    data = report.to_bytes()
    (folder / "report.json").write_bytes(data)
    entry = {
        "path": "report.json",
        "kind": "report",
        "sha256": hashlib.sha256(data).hexdigest(),
        "size": len(data),
    }
    _edit(folder, lambda m: m["artifacts"].append(entry))


def test_bench_refusals(make_bundle: Make) -> None:
    with pytest.raises(BundleError, match="no golden images"):
        bench_bundle(make_bundle("bare", golden=False), config=QUICK)
    with pytest.raises(InputError, match="expected: input"):
        bench_bundle(make_bundle("fixed", batch=2), config=QUICK, batch=3)


def test_layers_asked_and_used(make_bundle: Make, tmp_path: Path) -> None:
    bundle = make_bundle(scheme="tensorrt")
    (tmp_path / "model.int8.engine").write_bytes(b"engine")
    layers = [
        {"name": "kernel_0", "operator": "kgen", "precision": "fp32", "nodes": ["node_of_pooled"]},
        {"name": "reformat", "operator": "reformat", "precision": "fp32"},
        {"name": "logits_myl0_2", "operator": "MatMul", "precision": "int8"},
    ]
    entry = add_engine(
        bundle,
        "rtx",
        tmp_path / "model.int8.engine",
        {"compute_capabilities": ["86"], "layers": layers},
        backend="tensorrt_rtx",
        precision="int8",
        scheme="tensorrt",
    )
    asked = (
        LayerRow(name="pooled", operator="GlobalAveragePool", asked="int8", sqnr_db=40.0),
        LayerRow(name="flat", operator="Flatten", asked="follows"),
        LayerRow(name="logits", operator="MatMul", asked="int8", amax=2.0),
    )
    _add_report(
        bundle,
        Report(
            title="t",
            model=ModelSection(reference="m", task="t"),
            target="rtx",
            verdict=Verdict(passed=True, exit_code=0),
            quantization=QuantizationSection(
                scheme="tensorrt", method="minmax", nodes={"model.int8.onnx": asked}
            ),
        ),
    )
    with open_bundle(bundle) as opened:
        found = bundle_layers(opened)
    pooled, extra, flat, logits = found[entry.path]
    assert (pooled.used, pooled.sqnr_db) == ("fp32", 40.0)
    assert pooled.reason == "precision not honoured: the backend runs it in fp32"
    assert (extra.name, extra.asked) == ("reformat", None)
    assert (flat.name, flat.used, flat.layer) == ("flat", "fp32", "kernel_0")
    assert (logits.used, logits.amax, logits.reason) == ("int8", 2.0, "")
    onnx = {row.operator: row for row in found["model.fp32.onnx"]}
    assert onnx["MatMul"].used == "fp32"
    assert onnx["MatMul"].asked is None, "nothing is asked of the baseline"
    assert onnx["MatMul"].time_ms is not None
    assert "model.int8.onnx" not in found, "not for this machine's backend"


def test_layers_of_an_unknown_form(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "m.engine").write_bytes(b"engine")
    add_engine(bundle, "rtx", tmp_path / "m.engine", {"layers": [1]}, backend="tensorrt_rtx")
    with open_bundle(bundle) as opened, pytest.raises(InputError, match="unknown form"):
        bundle_layers(opened)


def test_writer_is_used_as_documented(tmp_path: Path) -> None:
    """The golden tensor that the writer gives back is the one that it stores."""
    from edgevision.preprocessing import Preprocessing
    from edgevision.types import TensorSpec

    (tmp_path / "a").write_bytes(b"a")
    with BundleWriter(
        tmp_path / "bundle",
        task="classification",
        labels=["a"],
        target="cpu",
        inputs=[TensorSpec("input", ("batch", 3, 4, 4))],
        outputs=[TensorSpec("logits", ("batch", 1))],
        preprocessing=Preprocessing(4, 4),
    ) as writer:
        tensor = writer.add_golden_inputs([np.zeros((7, 5, 3), np.uint8)])
        writer.finish(lineage=Lineage(model="m"))
    stored = np.load(tmp_path / "bundle" / "golden" / "tensor.npy", allow_pickle=False)
    np.testing.assert_array_equal(stored, tensor)
