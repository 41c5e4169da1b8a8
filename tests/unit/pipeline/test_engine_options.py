"""``build_engine`` with TensorRT's options: over stand-ins, and with the real TensorRT-RTX."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from edgevision.backends import _trt_cache, get_backend
from edgevision.backends.base import ShapeRange
from edgevision.backends.shapes import InputShapes
from edgevision.bundle import open_bundle
from edgevision.devices import local
from edgevision.devices.jetson import Jetson, PowerMode
from edgevision.errors import EdgeVisionError, InputError, ModelError, UnavailableError, UsageError
from edgevision.files import sha256_file
from edgevision.pipeline import timing_cache
from edgevision.pipeline.engine import build_engine
from edgevision.quantization.half import to_half
from edgevision.types import Precision
from tests.conformance.graphs import float_net, quantized_net
from tests.unit.backends.vendor import CLASSIC, IN_8, Script, vendor
from tests.unit.pipeline.test_engine import bundle

needs_rtx = pytest.mark.skipif(
    not get_backend("tensorrt_rtx").is_available().ok, reason="tensorrt-rtx is not installed"
)
ORIN = Jetson(
    "NVIDIA Jetson Orin NX 16GB", module="Orin NX", l4t="36.4.3", power_mode=PowerMode(0, "MAXN")
)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """This machine as a Jetson Orin NX with JetPack 6.2."""
    for module in (local, _trt_cache):
        monkeypatch.setattr(module, "read_jetson", lambda *root: ORIN)
    monkeypatch.setattr(local, "_gpu", lambda: ("NVIDIA Stand-in", "8.7"))
    monkeypatch.setenv("EDGEVISION_CACHE", str(tmp_path / "cache"))
    local.this_machine.cache_clear()
    yield
    local.this_machine.cache_clear()


def use(monkeypatch: pytest.MonkeyPatch, version: str) -> Script:
    script = Script()
    script.inspector = '{"Layers": []}'
    monkeypatch.setitem(sys.modules, "tensorrt", vendor(version, script))
    return script


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("version", CLASSIC)
def test_a_build_on_the_device_by_every_version(
    version: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script = use(monkeypatch, version)
    net = quantized_net(tmp_path / "net.onnx", opset=17)
    result = build_engine(net, "jetson-orin-nx", builder_level=None, sparsity=True)
    assert f"WORKSPACE={2048 << 20}" in script.calls, "a quarter of the board's 8 GB"
    assert (f"TACTIC_DRAM={4096 << 20}" in script.calls) == (version != "8.5"), "and a half"
    assert "SPARSE_WEIGHTS" in result.sidecar["flags"]
    assert ("FP16" in result.sidecar["flags"]) == (version in IN_8)
    (cache,) = (tmp_path / "cache" / "timing").glob("*.cache")
    assert cache.name.startswith("NVIDIA-Jetson-Orin-NX-16GB_l4t-36.4.3_MAXN-mode-0_tensorrt-")
    assert "cache of 0" in script.calls
    build_engine(net, "jetson-orin-nx")
    assert script.calls.count("cache of 7") == 1, "what the first build kept"
    # A graph of opset 17 has no float16 form; later versions want one, TensorRT 8 a flag.
    assert ("is built in float32, not float16" in caplog.text) == (version not in IN_8)


@pytest.mark.usefixtures("device")
def test_dla_is_in_the_sidecar_with_what_falls_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use(monkeypatch, "10.3")
    net = quantized_net(tmp_path / "net.onnx", batch=1)
    built = build_engine(net, "jetson-orin-nx", dla_core=1, float_precision=Precision.FP32)
    # The stand-in's network has a free batch; its file here a fixed one of 1.
    assert (built.sidecar["dla_core"], built.sidecar["dla_fallback"]) == (1, ["softmax"])


@pytest.mark.usefixtures("device")
def test_a_bundle_keeps_what_the_runtime_needs_to_open_the_engine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use(monkeypatch, "10.3")
    place = bundle(tmp_path)
    asked: dict[str, Any] = {"dla_core": 0, "version_compatible": True}
    build_engine(place, "jetson-orin-nx", batch=ShapeRange(2, 2, 2), **asked)
    with open_bundle(place) as opened:
        (entry,) = [e for e in opened.manifest.runnable() if e.kind == "engine"]
    assert {key: entry.meta[key] for key in asked} == asked
    assert entry.meta["batch"] == {"min": 2, "opt": 2, "max": 2}
    with pytest.raises(UsageError, match="proven for the graph as it is"):
        build_engine(place, "jetson-orin-nx", float_precision=Precision.FP16)


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("version", CLASSIC)
def test_a_float_graph_becomes_fp16_by_flag_or_by_its_own_types(
    version: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = use(monkeypatch, version)
    parsed: list[bytes] = []
    trt: Any = sys.modules["tensorrt"]
    parse = trt.OnnxParser.parse
    trt.OnnxParser.parse = lambda self, data: parsed.append(data) or parse(self, data)
    net = float_net(tmp_path / "net.onnx", opset=17 if version in IN_8 else 18)
    sidecar = build_engine(net, "jetson-orin-nx").sidecar
    assert sidecar["onnx_sha256"] == sha256_file(net), "of the file that was given"
    if version in IN_8:
        assert parsed == [net.read_bytes()]
        assert "flag FP16" in script.calls
        assert "converted" not in sidecar
    else:
        assert parsed == [to_half(onnx.load(net)).SerializeToString()]
        assert "flag FP16" not in script.calls
        assert sidecar["converted"] == "fp16"
    assert json.loads((tmp_path / "net.jetson-orin-nx.engine.json").read_bytes()) == sidecar
    script.calls.clear()
    build_engine(net, "jetson-orin-nx", float_precision=Precision.FP32)
    assert parsed[-1] == net.read_bytes()
    assert "flag FP16" not in script.calls


@pytest.mark.parametrize(
    ("target", "asked", "error", "told"),
    [
        (
            "jetson-orin-nano",
            {"dla_core": 0},
            UnavailableError,
            "0 DLA cores, asked for core 0",
        ),
        ("jetson-orin-nx", {"dla_core": 2}, UnavailableError, "has 2 DLA cores"),
        ("rtx", {"dla_core": 0}, UnavailableError, "has 0 DLA cores"),
        ("jetson-thor", {"hardware_compatible": True}, UnavailableError, "on a Jetson"),
        ("cpu", {"sparsity": True, "refit": True}, UsageError, "--sparsity, --refit: for Tensor"),
        ("cpu", {"builder_level": 0}, UsageError, "--builder-level: for TensorRT"),
        ("rtx", {"builder_level": 7}, UsageError, "0 to 5, got 7"),
    ],
)
def test_what_the_target_does_not_have_is_refused(
    target: str, asked: dict[str, Any], error: type[EdgeVisionError], told: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=told):
        build_engine(float_net(tmp_path / "net.onnx"), target, **asked)
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


@needs_rtx
@pytest.mark.parametrize(
    ("make", "wanted", "conv", "used"),
    [
        (float_net, None, "fp16", ["fp16", "fp32"]),
        (float_net, Precision.FP32, "fp32", ["fp32"]),
        (quantized_net, None, "int8", ["fp16", "fp32"]),
        (quantized_net, Precision.FP32, "int8", ["fp32"]),
    ],
)
def test_what_is_not_int8_runs_in_the_targets_float(
    make: Any, wanted: Precision | None, conv: str, used: list[str], tmp_path: Path
) -> None:
    net = make(tmp_path / "net.onnx")
    result = build_engine(net, "rtx", compute_capabilities=["86"], float_precision=wanted)
    found = {layer.operator: layer.precision for layer in result.layers}
    assert found["Conv"] == conv
    assert result.sidecar["float_precision"]["wanted"] == (wanted or Precision.FP16).value
    assert set(result.sidecar["float_precision"]["used"]) <= set(used)
    if wanted is None:
        assert "fp16" in result.sidecar["float_precision"]["used"]
    assert result.sidecar["onnx_sha256"] == sha256_file(net)


@needs_rtx
def test_a_graph_in_float16_is_built_as_it_is(tmp_path: Path) -> None:
    net = tmp_path / "net.onnx"
    onnx.save(to_half(onnx.load(float_net(net))), net)
    assert "converted" not in build_engine(net, "rtx", compute_capabilities=["86"]).sidecar


@needs_rtx
def test_an_old_opset_stays_float32_unless_float16_is_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    net = float_net(tmp_path / "net.onnx", opset=17)
    result = build_engine(net, "rtx", compute_capabilities=["86"])
    assert {layer.precision for layer in result.layers if layer.operator == "Conv"} == {"fp32"}
    assert "wants opset 18" in caplog.text
    with pytest.raises(ModelError, match="wants opset 18"):
        build_engine(net, "rtx", compute_capabilities=["86"], float_precision=Precision.FP16)


@needs_rtx
@pytest.mark.parametrize("fault", ["cut", "operator", "domain", "opset", "gone"])
def test_what_cannot_be_converted_is_told_in_the_builders_words(fault: str, tmp_path: Path) -> None:
    net = float_net(tmp_path / "net.onnx")
    model = onnx.load(net)
    relu = next(node for node in model.graph.node if node.name == "relu")
    if fault == "operator":
        relu.op_type = "Frobnicate"
    elif fault == "domain":
        relu.op_type, relu.domain = "Mine", "my.ops"
        model.opset_import.append(onnx.helper.make_opsetid("my.ops", 1))
    elif fault == "opset":
        model.opset_import[0].version = 99
    data = model.SerializeToString()
    net.write_bytes(data[:500] if fault == "cut" else data)
    if fault == "gone":
        net.unlink()
    told = {
        "cut": "no whole ONNX file",
        "operator": r"'relu' \(Frobnicate\): no such operator",
        "domain": r"'relu' \(my\.ops\.Mine\): no such operator",
        "opset": "opset 99.*9 to 25",
        "gone": "No file at",
    }
    batch = ShapeRange(1, 1, 8)
    with pytest.raises(InputError, match=told[fault]):
        build_engine(net, "rtx", batch=batch, compute_capabilities=["86"])
    if fault == "domain":
        with pytest.raises(ModelError, match=r"types ONNX does not know: my\.ops\.Mine"):
            build_engine(net, "rtx", batch=batch, float_precision=Precision.FP16)


@needs_rtx
def test_shapes_of_a_file_with_a_free_image_size(tmp_path: Path) -> None:
    net = float_net(tmp_path / "net.onnx")
    model = onnx.load(net)
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_param = "width"
    onnx.save(model, net)
    shapes = {"images": InputShapes((1, 3, 16, 8), (2, 3, 16, 16), (8, 3, 16, 64))}
    sidecar = build_engine(net, "rtx", compute_capabilities=["86"], shapes=shapes).sidecar
    assert sidecar["batch"] == {"min": 1, "opt": 2, "max": 8}
    assert sidecar["shapes"] == {
        "images": {"min": [1, 3, 16, 8], "opt": [2, 3, 16, 16], "max": [8, 3, 16, 64]}
    }


def test_other_timings_for_another_board_release_mode_and_version(tmp_path: Path) -> None:
    boards = [
        ORIN,
        replace(ORIN, name="NVIDIA Jetson Orin NX 8GB"),
        replace(ORIN, l4t="36.5"),
        replace(ORIN, power_mode=PowerMode(2, "15W")),
        replace(ORIN, power_mode=None),
    ]
    names = {
        timing_cache.timing_cache_of(version, board, cache=tmp_path).name
        for version in ("8.6.2", "10.3.0")
        for board in boards
    }
    assert len(names) == 10
