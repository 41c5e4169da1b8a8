"""What is OpenVINO's own; the rest is in the conformance suite."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from edgevision.backends import get_backend
from edgevision.backends.base import Artifact, BuildOptions, ShapeRange
from edgevision.errors import InputError, ModelError
from edgevision.types import TensorSpec
from tests.conformance.graphs import SHAPE, float_net, images, quantized_net

BACKEND = get_backend("openvino")
pytestmark = pytest.mark.skipif(not BACKEND.can_run().ok, reason=BACKEND.can_run().reason)


def infer(path: Path, count: int = 2, threads: int | None = 1) -> np.ndarray:
    with BACKEND.open(Artifact("openvino", path), threads=threads) as runner:
        return runner.infer({"images": images(count)})["logits"]


def reference(path: Path, count: int = 2) -> np.ndarray:
    """Of ONNX Runtime, node by node as they stand: Q/DQ in float."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images(count)})[0]


def test_the_artifact_is_the_onnx_file(tmp_path: Path) -> None:
    source = float_net(tmp_path / "net.onnx")
    artifact = BACKEND.build(source, tmp_path / "out" / "model.onnx")
    assert artifact.path.read_bytes() == source.read_bytes()
    assert artifact.meta["onnx_sha256"] == artifact.meta["sha256"]
    assert artifact.meta["version"] in BACKEND.is_available().reason


def test_a_float_graph_is_fp32_whatever_the_processor_prefers(tmp_path: Path) -> None:
    source = float_net(tmp_path / "net.onnx")
    artifact = BACKEND.build(source, tmp_path / "model.onnx")
    assert artifact.meta["inference_precision"] == "fp32"
    layers = BACKEND.layer_report(artifact)
    assert {layer.precision for layer in layers} == {"fp32"}
    # bfloat16 has 8 bits: it would be off by some thousandths.
    expected = reference(source)
    np.testing.assert_allclose(infer(source), expected, rtol=1e-5, atol=1e-5)


def test_a_quantized_graph_runs_on_integers_and_agrees(tmp_path: Path) -> None:
    source = quantized_net(tmp_path / "net.onnx", activations="uint8", zero_point=128)
    layers = {layer.operator: layer for layer in BACKEND.layer_report(Artifact("openvino", source))}
    assert layers["Convolution"].precision == "int8"
    assert layers["FullyConnected"].precision == "int8"
    expected = reference(source)
    noise = ((infer(source) - expected) ** 2).sum()
    # Between the layers OpenVINO may compute in bfloat16, and the next Q then rounds otherwise.
    assert 10 * np.log10((expected**2).sum() / noise) > 40


def test_the_report_names_times_and_the_nodes_behind_each_layer(tmp_path: Path) -> None:
    source = float_net(tmp_path / "net.onnx")
    layers = BACKEND.layer_report(Artifact("openvino", source))
    found = {layer.operator: layer for layer in layers}
    assert found["Convolution"].nodes == ("conv", "relu")
    assert found["Convolution"].time_ms is not None
    assert found["Convolution"].time_ms > 0
    assert found["FullyConnected"].nodes == ("gemm",), "known by its output alone"
    assert not {"Const", "Input", "Output"} & found.keys()


def test_every_batch_is_computed_right_whether_its_shape_was_compiled_or_not(
    tmp_path: Path,
) -> None:
    source = float_net(tmp_path / "net.onnx")
    with BACKEND.open(Artifact("openvino", source), threads=1) as runner:
        for count in (1, 2, 3, 4, 5, 6, 2, 7, 1):
            found = runner.infer({"images": images(count)})["logits"]
            np.testing.assert_allclose(found, reference(source, count), rtol=1e-5, atol=1e-5)


def test_other_free_axes_than_the_batch(tmp_path: Path) -> None:
    source = float_net(tmp_path / "net.onnx")
    model = onnx.load(source)
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"side{axis}"
    onnx.save(model, source)
    with BACKEND.open(Artifact("openvino", source), threads=1) as runner:
        assert runner.input_specs == (TensorSpec("images", ("batch", 3, "side2", "side3")),)
        assert runner.output_specs == (TensorSpec("logits", ("batch", 10)),)
        for side in (8, 20):
            x = np.random.default_rng(0).normal(size=(1, 3, side, side)).astype(np.float32)
            (expected,) = onnxruntime.InferenceSession(str(source)).run(None, {"images": x})
            found = runner.infer({"images": x})["logits"]
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_outputs_come_under_their_own_names(tmp_path: Path) -> None:
    """Out of alphabetical order, one the same tensor as another, one the input itself."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]>'
        "main (float[n,4] x) => (float[n,4] c, float[n,4] b, float[n,4] a, float[n,4] x)"
        "{ c = Relu (x)  b = Identity (c)  a = Neg (x) }"
    )
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    x = np.array([[-1.0, 0.0, 2.0, 3.0]], np.float32)
    with BACKEND.open(Artifact("openvino", path)) as runner:
        assert [spec.name for spec in runner.output_specs] == ["c", "b", "a", "x"]
        found = runner.infer({"x": x})
    expected = {"c": np.maximum(x, 0), "b": np.maximum(x, 0), "a": -x, "x": x}
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
    found["x"] += 1
    assert x[0, 0] == -1.0, "the caller's array is another one"


def test_a_fixed_batch_stays_and_others_are_refused(tmp_path: Path) -> None:
    source = float_net(tmp_path / "net.onnx", batch=2)
    with BACKEND.open(Artifact("openvino", source)) as runner:
        assert runner.input_specs == (TensorSpec("images", (2, *SHAPE)),)
        with pytest.raises(InputError, match="expected: "):
            runner.infer({"images": images(1)})
    with pytest.raises(ModelError, match="batch is fixed"):
        BACKEND.build(source, tmp_path / "out.onnx", BuildOptions(ShapeRange(1, 1, 8)))


def test_inputs_that_may_not_be_written_are_taken_as_they_are(tmp_path: Path) -> None:
    source = float_net(tmp_path / "net.onnx")
    with BACKEND.open(Artifact("openvino", source), threads=1) as runner:
        x = images(1)
        expected = runner.infer({"images": x})["logits"]
        x.flags.writeable = False
        np.testing.assert_array_equal(runner.infer({"images": x})["logits"], expected)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_those_asked_for(tmp_path: Path, threads: int) -> None:
    source = float_net(tmp_path / "net.onnx")
    with BACKEND.open(Artifact("openvino", source), threads=threads) as runner:
        (request,) = runner._requests.values()  # type: ignore[attr-defined]
        compiled = request.get_compiled_model()
        assert compiled.get_property("INFERENCE_NUM_THREADS") == threads
        assert compiled.get_property("NUM_STREAMS") == 1, "the lowest latency"


@pytest.mark.parametrize("domain", ["", "my.domain"])
def test_an_unknown_operator_is_named(tmp_path: Path, domain: str) -> None:
    source = float_net(tmp_path / "net.onnx")
    model = onnx.load(source)
    model.graph.node[1].op_type, model.graph.node[1].domain = "Frobnicate", domain
    if domain:
        model.opset_import.append(onnx.helper.make_opsetid(domain, 1))
    onnx.save(model, source)
    with pytest.raises(ModelError, match=r"cannot load 'net\.onnx': .*Frobnicate") as caught:
        BACKEND.build(source, tmp_path / "out.onnx")
    assert "\n" not in caught.value.message
    assert "src/" not in caught.value.message
    assert not (tmp_path / "out.onnx").exists()


def test_shapes_that_do_not_fit_each_other_are_told(tmp_path: Path) -> None:
    source = float_net(tmp_path / "net.onnx")
    model = onnx.load(source)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 4
    onnx.save(model, source)
    with pytest.raises(ModelError, match=r"cannot load 'net\.onnx'"):
        BACKEND.build(source, tmp_path / "out.onnx")


def test_a_damaged_file_is_refused_and_nothing_is_printed(tmp_path: Path) -> None:
    source = float_net(tmp_path / "net.onnx")
    data = bytearray(source.read_bytes())
    place = data.index(b"gemm_weight") - 40  # inside the tensor before it
    data[place:place] = b"\xff" * 20
    source.write_bytes(bytes(data))
    done = subprocess.run(
        [sys.executable, "-c", _OPEN.format(path=str(source))], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ModelError")
    assert done.stderr == ""


_OPEN = """
from pathlib import Path
from edgevision.backends import get_backend
from edgevision.backends.base import Artifact
from edgevision.errors import EdgeVisionError
try:
    get_backend("openvino").open(Artifact("openvino", Path({path!r})))
except EdgeVisionError as error:
    print(type(error).__name__, error.message)
"""

_TELEMETRY = """
import socket, sys
tried = []
socket.getaddrinfo = lambda *a, **k: tried.append(a) or []
socket.socket.connect = lambda *a: tried.append(a)
from pathlib import Path
from edgevision.backends import get_backend
from edgevision.backends.base import Artifact
path = Path({path!r})
backend = get_backend("openvino")
backend.layer_report(Artifact("openvino", path))
backend.open(Artifact("openvino", path)).close()
import threading
assert [t for t in threading.enumerate() if t is not threading.main_thread()] == []
assert not tried, tried
assert "openvino_telemetry" not in sys.modules
import openvino_telemetry  # whoever wants it can have it
"""


def test_it_sends_nothing_and_leaves_nothing_in_the_home_folder(tmp_path: Path) -> None:
    source = float_net(tmp_path / "net.onnx")
    home = tmp_path / "home"
    home.mkdir()
    environment = {**os.environ, "HOME": str(home), "USERPROFILE": str(home)}
    environment.pop("CI", None)  # where it is set the SDK keeps still by itself
    code = _TELEMETRY.format(path=str(source))
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not list(home.iterdir())


def test_where_it_is_missing_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    found = BACKEND.is_available()
    assert not found.ok
    assert "openvino" in found.reason
    assert BACKEND.install is not None
    assert "edgevision[openvino]" in BACKEND.install
