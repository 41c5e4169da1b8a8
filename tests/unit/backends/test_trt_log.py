"""What the vendor says, as one message: each error once, with its node, without its noise."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgevision.backends._trt_build import build_plan
from edgevision.backends._trt_log import Log
from edgevision.backends.base import Artifact, BuildOptions, ShapeRange
from edgevision.backends.onnx_file import OnnxFile, read_onnx
from edgevision.backends.tensorrt import TensorRTBackend
from edgevision.errors import ModelError
from edgevision.types import Availability
from tests.conformance.graphs import quantized_net
from tests.unit.backends.vendor import SINCE_10, VERSIONS, Script, plan, vendor

NO_DRIVER = (
    "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (In catchCudaError at "
    "/_src/common/dispatch/checkMacros.cpp:250 (cudaError 35: CUDA driver version is "
    "insufficient for CUDA runtime version))"
)
# As TensorRT-RTX 1.7.1 gave it for a Gemm whose shapes do not fit, shortened.
SHAPES = (
    "Invalid Node - gemm\nITensor::getDimensions: Error Code 4: API Usage Error (gemm: 16 and 17 "
    "must match. In infer at /_src/a.cpp:12)\n"
    f"{NO_DRIVER}\n"
    "ITensor::getDimensions: Error Code 4: API Usage Error (gemm: 16 and 17 must match. In infer "
    "at /_src/a.cpp:12)\n"
)


@pytest.fixture
def net(tmp_path: Path) -> OnnxFile:
    return read_onnx(quantized_net(tmp_path / "net.onnx", opset=17))


def refused(version: str, net: OnnxFile, script: Script) -> str:
    ahead = ("86",) if version.startswith("rtx") else ()
    wanted = BuildOptions(batch=ShapeRange(1, 4, 8), compute_capabilities=ahead)
    with pytest.raises(ModelError) as caught:
        build_plan(vendor(version, script), net, wanted)
    return caught.value.message


@pytest.mark.parametrize("version", VERSIONS)
def test_repeats_places_and_the_missing_driver_are_left_out(version: str, net: OnnxFile) -> None:
    script = Script()
    script.parser_errors = [(SHAPES, 10)]
    assert refused(version, net, script) == (
        "'net.onnx' was not parsed: node 10 'gemm' (Gemm): "
        "ITensor::getDimensions: Error Code 4: API Usage Error (gemm: 16 and 17 must match.)"
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_a_node_of_a_subgraph_goes_by_its_own_name_where_the_vendor_gives_it(
    version: str, net: OnnxFile
) -> None:
    script = Script()
    script.parser_errors = [("bad", 3, "inner", "Frob"), ("worse", 99, "deep", "Frob")]
    message = refused(version, net, script)
    if version in SINCE_10:
        assert "node 3 'inner' (Frob): bad; node 99 'deep' (Frob): worse" in message
    else:
        assert message.endswith("node 3 'conv' (Conv): bad; worse")


def test_a_missing_driver_alone_is_the_reason() -> None:
    log = Log()
    log.add(True, NO_DRIVER)
    assert "insufficient for CUDA runtime" in log.reason()
    log.add(True, "Error Code 2: out of memory")
    assert log.reason() == "Error Code 2: out of memory"
    assert "--builder-level" in (log.hint() or "")


def test_nothing_said_is_said() -> None:
    assert Log().reason() == "the vendor gave no reason"
    assert Log().hint() is None


@pytest.mark.parametrize("allowed", ["1", "0", None])
def test_the_user_allows_code_for_the_cpu_by_a_variable(
    allowed: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = Script()
    script.inspector = '{"Layers": []}'
    trt = vendor("10.3", script)
    monkeypatch.setattr("edgevision.backends._trt_common.import_module", lambda name: trt)
    backend = TensorRTBackend()
    monkeypatch.setattr(TensorRTBackend, "can_run", lambda self: Availability(True, "pretended"))
    monkeypatch.delenv("EDGEVISION_ALLOW_HOST_CODE", raising=False)
    if allowed is not None:
        monkeypatch.setenv("EDGEVISION_ALLOW_HOST_CODE", allowed)
    engine = tmp_path / "net.engine"
    engine.write_bytes(plan())
    backend.layer_report(Artifact("tensorrt", engine))
    told = "Runtime.engine_host_code_allowed=True"
    assert (told in script.calls) == (allowed == "1")
