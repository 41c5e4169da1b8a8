"""The path from ONNX to a plan against the names of TensorRT 8.5 to 11.4 and of RTX 1.7."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgevision.backends._trt_build import build_plan, newest_opset
from edgevision.backends.base import BuildOptions, ShapeRange
from edgevision.backends.onnx_file import OnnxFile, read_onnx
from edgevision.errors import ModelError, UnavailableError
from edgevision.types import Precision
from tests.conformance.graphs import float_net, quantized_net
from tests.unit.backends.vendor import IN_8, SINCE_10, VERSIONS, Script, vendor


@pytest.fixture
def quantized(tmp_path: Path) -> OnnxFile:
    return read_onnx(quantized_net(tmp_path / "net.onnx", opset=17))  # the newest of TensorRT 8


def options(version: str, **more: Any) -> BuildOptions:
    ahead = ("86", "120") if version.startswith("rtx") else ()
    return BuildOptions(batch=ShapeRange(1, 4, 8), compute_capabilities=ahead, **more)


def test_the_stand_ins_are_those_versions() -> None:
    assert VERSIONS == ["8.5", "8.6", "10.3", "10.13", "11.4", "rtx-1.7"]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_name_on_the_way_exists_in_that_version(
    version: str, quantized: OnnxFile, tmp_path: Path
) -> None:
    script = Script()
    script.layers = "Layers:\n…"
    if version in SINCE_10:
        script.phases = [("start", "whole", 2), ("step", "whole", 0), ("finish", "whole", 0)]
    told: list[tuple[str, int, int]] = []
    built = build_plan(
        vendor(version, script),
        quantized,
        options(
            version,
            workspace_mb=64,
            timing_cache=tmp_path / "timing.cache",
            progress=lambda *step: told.append(step),
        ),
    )
    assert built.plan.startswith(b"ftrt")
    assert built.layer_log == script.layers
    steps = [("engine", 0, 1000), ("engine", 500, 1000), ("engine", 1000, 1000)]
    assert told == (steps if version in SINCE_10 else []), "8.x has no progress monitor"
    assert "WORKSPACE=67108864" in script.calls
    assert "profile images (1, 3, 16, 16) (4, 3, 16, 16) (8, 3, 16, 16)" in script.calls
    assert any(call.startswith("IBuilderConfig.profiling_verbosity=") for call in script.calls)
    assert (tmp_path / "timing.cache").read_bytes() == b"timings"


@pytest.mark.parametrize(
    ("version", "flags"),
    [
        ("10.3", {"EXPLICIT_BATCH", "STRONGLY_TYPED"}),
        ("10.13", {"EXPLICIT_BATCH", "STRONGLY_TYPED"}),
        ("11.4", {"STRONGLY_TYPED"}),
        ("rtx-1.7", {"STRONGLY_TYPED"}),
    ],
)
def test_precision_comes_from_the_graph_from_10_on(
    version: str, flags: set[str], quantized: OnnxFile
) -> None:
    script = Script()
    trt = vendor(version, script)
    built = build_plan(trt, quantized, options(version))
    assert set(built.flags) == flags
    bits = sum(1 << int(getattr(trt.NetworkDefinitionCreationFlag, flag)) for flag in flags)
    assert f"flags={bits}" in script.calls
    assert not [call for call in script.calls if call.startswith("flag ")]


@pytest.mark.parametrize("version", IN_8)
def test_8_is_told_the_precisions(version: str, quantized: OnnxFile, tmp_path: Path) -> None:
    def flags(file: OnnxFile, wanted: Precision | None) -> tuple[str, ...]:
        script = Script()
        found = build_plan(
            vendor(version, script), file, options(version, float_precision=wanted)
        ).flags
        assert {f"flag {name}" for name in found if name != "EXPLICIT_BATCH"} == {
            call for call in script.calls if call.startswith("flag ")
        }
        return found

    plain = read_onnx(float_net(tmp_path / "float.onnx", opset=17))
    assert flags(quantized, None) == ("EXPLICIT_BATCH", "INT8", "FP16")
    assert flags(quantized, Precision.FP16) == ("EXPLICIT_BATCH", "INT8", "FP16")
    assert flags(quantized, Precision.FP32) == ("EXPLICIT_BATCH", "INT8")
    assert flags(plain, None) == ("EXPLICIT_BATCH",)
    assert flags(plain, Precision.FP16) == ("EXPLICIT_BATCH", "FP16")


def test_rtx_gets_every_compute_capability_and_the_others_none(quantized: OnnxFile) -> None:
    script = Script()
    build_plan(vendor("rtx-1.7", script), quantized, options("rtx-1.7"))
    assert "IBuilderConfig.num_compute_capabilities=2" in script.calls
    assert {"capability 0 SM86", "capability 1 SM120"} <= set(script.calls)
    script = Script()
    build_plan(vendor("11.4", script), quantized, options("11.4"))
    assert not [call for call in script.calls if "capabilit" in call]


def test_a_fixed_shape_takes_no_profile(tmp_path: Path) -> None:
    script = Script()
    script.shape = (1, 3, 16, 16)
    file = read_onnx(quantized_net(tmp_path / "net.onnx", batch=1))
    build_plan(vendor("11.4", script), file, BuildOptions())
    assert "IBuilderConfig.add_optimization_profile" not in script.calls


def test_a_free_image_size_without_shapes_is_refused(quantized: OnnxFile) -> None:
    script = Script()
    script.shape = (-1, 3, -1, -1)
    with pytest.raises(ModelError, match=r"images.*\[-1, 3, -1, -1\]") as caught:
        build_plan(vendor("11.4", script), quantized, options("11.4"))
    assert "--min-shapes images:1x3x224x224" in (caught.value.hint or "")


def test_a_fixed_batch_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    file = read_onnx(quantized_net(tmp_path / "net.onnx", batch=4))
    with pytest.raises(ModelError, match=r"4, 3, 16, 16.*1 to 8"):
        build_plan(vendor("11.4", Script()), file, options("11.4"))


@pytest.mark.parametrize("version", VERSIONS)
def test_every_parser_error_is_told_with_its_node(version: str, quantized: OnnxFile) -> None:
    script = Script()
    script.parser_errors = [
        ("Assertion failed:\n  bad pads", 3),
        ('creator && "Plugin not found, are the plugin name …"', 5),
        ("the graph as a whole", -1),
    ]
    with pytest.raises(ModelError) as caught:
        build_plan(vendor(version, script), quantized, options(version))
    message = caught.value.message
    assert "node 3 'conv' (Conv): Assertion failed: bad pads" in message
    assert "node 5 'pool' (GlobalAveragePool): no such operator" in message
    assert "the graph as a whole" in message


@pytest.mark.parametrize("version", VERSIONS)
def test_a_build_that_gives_nothing_tells_the_logged_reason(
    version: str, quantized: OnnxFile
) -> None:
    script = Script()
    script.build_error = "no tactics to implement the operation within workspace limit"
    with pytest.raises(ModelError, match="no tactics") as caught:
        build_plan(vendor(version, script), quantized, options(version))
    assert "workspace-mb" in (caught.value.hint or "")


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), OSError(28, "full")])
def test_what_progress_raises_stops_the_build_and_comes_out(
    raised: BaseException, quantized: OnnxFile
) -> None:
    script = Script()
    script.phases = [("start", "Building", 4), ("step", "Building", 0), ("step", "Building", 1)]

    def progress(phase: str, done: int, total: int) -> None:
        if done:
            raise raised

    with pytest.raises(type(raised)):
        build_plan(vendor("11.4", script), quantized, options("11.4", progress=progress))


def test_progress_nests_and_never_goes_back(quantized: OnnxFile) -> None:
    script = Script()
    script.phases = [
        ("start", "whole", 2),
        ("start", "part", 5),
        ("step", "part", 3),
        ("finish", "part", 0),
        ("step", "whole", 0),
        ("step", "whole", 1),
        ("finish", "whole", 0),
    ]
    told: list[int] = []
    build_plan(
        vendor("11.4", script),
        quantized,
        options("11.4", progress=lambda phase, done, total: told.append(done)),
    )
    assert told == [0, 400, 500, 1000]


@pytest.mark.parametrize(
    ("version", "newest"), [("8.5", 17), ("8.6", 17), ("10.3", 20), ("10.13", 22), ("11.4", 25)]
)
@pytest.mark.parametrize("opset", [8, 99])
def test_an_opset_that_the_parser_does_not_know_is_refused(
    version: str, newest: int, opset: int, tmp_path: Path
) -> None:
    file = read_onnx(quantized_net(tmp_path / "net.onnx", opset=opset))
    script = Script()
    with pytest.raises(ModelError, match=f"opset {opset}.*9 to {newest}"):
        build_plan(vendor(version, script), file, options(version))
    assert script.calls == []


@pytest.mark.parametrize(
    ("version", "is_rtx", "opset"),
    [
        ("8.5.2", False, 17),
        ("8.6.2", False, 17),
        ("10.3.0", False, 20),
        ("10.16", False, 22),
        ("11.4", False, 25),
        ("1.7.1.116", True, 25),
    ],
)
def test_newest_opset_by_version(version: str, is_rtx: bool, opset: int) -> None:
    assert newest_opset(version, is_rtx) == opset


@pytest.mark.parametrize(("name", "told"), [("75", "FP32"), ("87", "Known: .*86"), ("x", "Known")])
def test_a_capability_that_rtx_cannot_serve_is_refused(
    name: str, told: str, quantized: OnnxFile
) -> None:
    wanted = BuildOptions(batch=ShapeRange(1, 4, 8), compute_capabilities=("86", name))
    with pytest.raises(UnavailableError, match=told):
        build_plan(vendor("rtx-1.7", Script()), quantized, wanted)


def test_a_stand_in_refuses_names_that_its_version_lacks() -> None:
    trt = vendor("11.4", Script())
    config = trt.IBuilderConfig()
    with pytest.raises(AttributeError, match="int8_calibrator"):
        config.int8_calibrator = None
    with pytest.raises(AttributeError):
        config.max_workspace_size = 1
    assert not hasattr(trt.BuilderFlag, "FP16")
    assert hasattr(vendor("10.3", Script()).BuilderFlag, "FP16")
