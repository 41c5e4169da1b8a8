"""Every option of a build reaches the vendor by name where it has one, and is refused elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgevision.backends._trt_build import build_plan
from edgevision.backends.base import BuildOptions, ShapeRange
from edgevision.backends.onnx_file import OnnxFile, read_onnx
from edgevision.backends.shapes import InputShapes
from edgevision.errors import ModelError, UnavailableError, UsageError
from tests.conformance.graphs import quantized_net
from tests.unit.backends.vendor import SINCE_10, VERSIONS, Script, vendor

SINCE_8_6 = [version for version in VERSIONS if version != "8.5"]


@pytest.fixture
def net(tmp_path: Path) -> OnnxFile:
    return read_onnx(quantized_net(tmp_path / "net.onnx", opset=17))


def build(version: str, net: OnnxFile, script: Script | None = None, **asked: Any) -> Script:
    script = script or Script()
    ahead = ("86",) if version.startswith("rtx") else ()
    batch = asked.pop("batch", ShapeRange(1, 4, 8))
    asked = {"compute_capabilities": ahead, "batch": batch, **asked}
    build_plan(vendor(version, script), net, BuildOptions(**asked))
    return script


# Option, what the vendor must be told, the versions that have it.
REACHED = [
    ({"builder_level": 0}, "IBuilderConfig.builder_optimization_level=0", SINCE_8_6),
    ({"builder_level": 5}, "IBuilderConfig.builder_optimization_level=5", SINCE_8_6),
    ({"hardware_compatible": True}, "IBuilderConfig.hardware_compatibility_level=1", SINCE_8_6),
    ({"version_compatible": True}, "flag VERSION_COMPATIBLE", SINCE_8_6),
    ({"weight_streaming": True}, "flag WEIGHT_STREAMING", SINCE_10),
    ({"sparsity": True}, "flag SPARSE_WEIGHTS", VERSIONS),
    ({"refit": True}, "flag REFIT", VERSIONS),
    ({"workspace_mb": 3}, f"WORKSPACE={3 << 20}", VERSIONS),
    ({"tactic_memory_mb": 5}, f"TACTIC_DRAM={5 << 20}", SINCE_8_6),
]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("asked", "told", "having"), REACHED)
def test_an_option_is_told_to_the_vendor_or_refused_by_name(
    version: str, asked: dict[str, Any], told: str, having: list[str], net: OnnxFile
) -> None:
    if version in having:
        assert told in build(version, net, **asked).calls
        assert told not in build(version, net).calls, "it is not the default"
    elif "tactic_memory_mb" in asked:  # a limit out of the target's memory, where there is a pool
        assert told not in build(version, net, **asked).calls
    else:
        option = f"--{next(iter(asked)).replace('_', '-')}"
        script = Script()
        with pytest.raises(UnavailableError, match=rf"TensorRT 8\.\S+ has no '\w+', .*{option} "):
            build(version, net, script, **asked)
        assert "OnnxParser.parse" not in script.calls, "told before anything is parsed"


def test_hardware_compatibility_is_ampere_and_later() -> None:
    for version in SINCE_8_6:
        assert vendor(version, Script()).HardwareCompatibilityLevel.AMPERE_PLUS == 1


@pytest.mark.parametrize("level", [-1, 6])
def test_a_builder_level_out_of_range_is_refused(level: int) -> None:
    with pytest.raises(UsageError, match=f"0 to 5, got {level}"):
        BuildOptions(builder_level=level)


@pytest.mark.parametrize("version", VERSIONS)
def test_shapes_make_the_profile_of_every_input(version: str, net: OnnxFile) -> None:
    script = Script()
    script.shape = (-1, 3, -1, -1)
    script.more_inputs = {"mask": (-1, 16, 16), "gain": (1, 8)}
    shapes = {"images": InputShapes((1, 3, 8, 8), (2, 3, 16, 16), (4, 3, 32, 32))}
    build(version, net, script, shapes=shapes)
    assert [call for call in script.calls if call.startswith("profile ")] == [
        "profile images (1, 3, 8, 8) (2, 3, 16, 16) (4, 3, 32, 32)",
        "profile mask (1, 16, 16) (4, 16, 16) (8, 16, 16)",
    ]
    assert script.calls.count("IBuilderConfig.add_optimization_profile") == 1


@pytest.mark.parametrize(
    ("shapes", "error", "told"),
    [
        ({"image": (1, 3, 16, 16)}, UsageError, "Did you mean 'images'"),
        ({"images": (1, 4, 16, 16)}, ModelError, r"\[-1, 3, 16, 16\].*asked for 1x4x16x16"),
        ({"images": (1, 3, 16)}, ModelError, "asked for 1x3x16"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    shapes: dict[str, Any], error: type[Exception], told: str, net: OnnxFile
) -> None:
    given = {name: InputShapes(shape, shape, shape) for name, shape in shapes.items()}
    with pytest.raises(error, match=told):
        build("10.3", net, shapes=given)


def test_shapes_lift_the_check_of_a_fixed_batch(tmp_path: Path) -> None:
    fixed = read_onnx(quantized_net(tmp_path / "fixed.onnx", batch=4, opset=17))
    script = Script()
    script.shape = (4, 3, 16, 16)
    shape = (4, 3, 16, 16)
    build("10.3", fixed, script, shapes={"images": InputShapes(shape, shape, shape)})
    assert not [call for call in script.calls if call.startswith("profile ")]


@pytest.mark.parametrize("version", VERSIONS)
def test_dla_takes_what_it_can_and_the_rest_is_named(version: str, net: OnnxFile) -> None:
    script = Script()
    ahead = ("86",) if version.startswith("rtx") else ()
    built = build_plan(
        vendor(version, script),
        net,
        BuildOptions(batch=ShapeRange(4, 4, 4), compute_capabilities=ahead, dla_core=1),
    )
    assert built.dla_fallback == ("softmax",), "constants run nowhere"
    assert "GPU_FALLBACK" in built.flags
    told = {"IBuilderConfig.default_device_type=1", "IBuilderConfig.DLA_core=1"}
    assert {*told, "flag GPU_FALLBACK"} <= set(script.calls)
    assert not [call for call in script.calls if call.startswith("DLA_")], "pools are left alone"


@pytest.mark.parametrize(
    ("cores", "on_dla", "batch", "error", "told"),
    [
        (0, ("conv",), ShapeRange(4, 4, 4), UnavailableError, "no DLA core 0 here.*finds 0"),
        (2, (), ShapeRange(4, 4, 4), UnavailableError, "None of the 3 layers can run on the DLA"),
        (2, ("conv",), ShapeRange(1, 4, 8), UsageError, "fixed shapes only.*1x3x16x16 to 8x3"),
    ],
)
def test_dla_that_cannot_serve_is_refused(
    cores: int,
    on_dla: tuple[str, ...],
    batch: ShapeRange,
    error: type[Exception],
    told: str,
    net: OnnxFile,
) -> None:
    script = Script()
    script.dla_cores, script.on_dla = cores, on_dla
    with pytest.raises(error, match=told):
        build("10.3", net, script, dla_core=0, batch=batch)
    assert "Builder.build_serialized_network" not in script.calls


@pytest.mark.parametrize("version", VERSIONS)
def test_no_builder_is_told_with_the_vendors_reason(version: str, net: OnnxFile) -> None:
    script = Script()
    script.no_builder = True
    with pytest.raises(UnavailableError, match="could not be made: CUDA initialization failure"):
        build(version, net, script)
