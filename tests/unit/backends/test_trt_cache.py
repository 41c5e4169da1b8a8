"""The timing cache: kept, given back, and refused where it is stale or damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgevision.backends._trt_build import build_plan
from edgevision.backends.base import BuildOptions
from edgevision.backends.onnx_file import OnnxFile, read_onnx
from tests.conformance.graphs import quantized_net
from tests.unit.backends.vendor import CLASSIC, Script, vendor


@pytest.fixture
def net(tmp_path: Path) -> OnnxFile:
    return read_onnx(quantized_net(tmp_path / "net.onnx", opset=17))


def given(version: str, net: OnnxFile, cache: Path, *, stale: bool = False) -> list[str]:
    """What the builder was given, one build after another: "cache of N" bytes."""
    script = Script()
    script.stale_cache = stale
    build_plan(vendor(version, script), net, BuildOptions(timing_cache=cache))
    return [call for call in script.calls if call.startswith("cache of")]


@pytest.mark.parametrize("version", CLASSIC)
def test_the_next_build_gets_what_the_last_one_measured(
    version: str, net: OnnxFile, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "new" / "timing.cache"
    assert given(version, net, cache) == ["cache of 0"]
    assert cache.read_bytes() == b"timings"
    assert given(version, net, cache) == ["cache of 7"]
    assert not caplog.records


@pytest.mark.parametrize("version", CLASSIC)
def test_one_that_the_vendor_refuses_is_made_anew_with_a_warning(
    version: str, net: OnnxFile, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "timing.cache"
    cache.write_bytes(b"of another device")
    assert given(version, net, cache, stale=True) == ["cache of 17", "cache of 0"]
    assert cache.read_bytes() == b"timings"
    assert "another device or version" in caplog.text


def test_one_of_another_version_is_not_even_given(
    net: OnnxFile, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "timing.cache"
    given("10.3", net, cache)
    assert given("10.13", net, cache) == ["cache of 0"]
    assert "it is of TensorRT 10.3.0, this is 10.13.3.9" in caplog.text
    caplog.clear()
    assert given("10.13", net, cache) == ["cache of 7"]
    assert not caplog.records


@pytest.mark.parametrize("damage", ["bytes", "facts", "no facts"])
def test_a_damaged_one_is_not_given(
    damage: str, net: OnnxFile, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache, facts = tmp_path / "timing.cache", tmp_path / "timing.cache.json"
    given("10.3", net, cache)
    if damage == "bytes":
        cache.write_bytes(b"timingz")
    else:
        facts.write_text("{" if damage == "facts" else "[]")
    assert given("10.3", net, cache) == ["cache of 0"]
    assert "damaged" in caplog.text
    assert cache.read_bytes() == b"timings"
    assert json.loads(facts.read_bytes())["tensorrt"] == "10.3.0"
