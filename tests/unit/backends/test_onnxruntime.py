from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from edgevision.backends import get_backend
from edgevision.backends.base import Artifact, BuildOptions, ShapeRange
from edgevision.errors import InputError, ModelError
from tests.conformance.graphs import float_net, images, quantized_net

BACKEND = get_backend("onnxruntime")


def test_the_artifact_is_the_onnx_file(tmp_path: Path) -> None:
    source = float_net(tmp_path / "net.onnx")
    artifact = BACKEND.build(source, tmp_path / "out" / "model.onnx")
    assert artifact.path.read_bytes() == source.read_bytes()
    assert artifact.meta["onnx_sha256"] == artifact.meta["sha256"]
    assert artifact.meta["version"] == onnxruntime.__version__


def test_it_gives_what_the_session_gives(tmp_path: Path) -> None:
    source = float_net(tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(str(source), providers=["CPUExecutionProvider"])
    with BACKEND.open(Artifact("onnxruntime", source), threads=1) as runner:
        for count in (1, 5):
            (expected,) = session.run(None, {"images": images(count)})
            np.testing.assert_array_equal(
                runner.infer({"images": images(count)})["logits"], expected
            )


def test_the_report_sees_int8_and_float(tmp_path: Path) -> None:
    int8 = quantized_net(tmp_path / "int8.onnx", activations="uint8")
    layers = BACKEND.layer_report(Artifact("onnxruntime", int8))
    by_operator = {layer.operator: layer.precision for layer in layers}
    assert by_operator["QuantizeLinear"] == "fp32"  # reads float
    assert all(layer.time_ms is not None for layer in layers)
    # The Relu between Conv and no Q/DQ after it: the Conv has no quantized output to fuse with.
    assert by_operator["FusedConv"] == "fp32"
    assert "int8" in by_operator.values()


def test_the_report_sees_a_convolution_that_really_runs_in_int8(tmp_path: Path) -> None:
    path = quantized_net(tmp_path / "net.onnx", activations="uint8")
    model = onnx.load(path)
    # Q/DQ after the Relu as well, which ONNX Runtime wants to fuse QLinearConv.
    relu = next(node for node in model.graph.node if node.name == "relu")
    index = list(model.graph.node).index(relu) + 1
    for node in (
        onnx.helper.make_node("QuantizeLinear", ["relu_out", "in_scale", "zero"], ["r_q"]),
        onnx.helper.make_node("DequantizeLinear", ["r_q", "in_scale", "zero"], ["r_dq"]),
    ):
        model.graph.node.insert(index, node)
        index += 1
    next(node for node in model.graph.node if node.name == "pool").input[0] = "r_dq"
    onnx.save(model, path)
    layers = BACKEND.layer_report(Artifact("onnxruntime", path))
    convolutions = {layer.operator: layer.precision for layer in layers if "Conv" in layer.operator}
    assert convolutions == {"QLinearConv": "int8"}


def test_nothing_is_printed_beside_the_error(tmp_path: Path) -> None:
    source = float_net(tmp_path / "net.onnx")
    model = onnx.load(source)
    model.graph.node[0].op_type = "Frobnicate"
    onnx.save(model, source)
    code = (
        "from pathlib import Path\n"
        "from edgevision.backends import get_backend\n"
        "from edgevision.errors import ModelError\n"
        f"path = Path({str(source)!r})\n"
        "try: get_backend('onnxruntime').build(path, path.with_name('out.onnx'))\n"
        "except ModelError as error: print(error.message)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Frobnicate" in done.stdout
    assert "[ONNXRuntimeError]" not in done.stdout
    assert done.stderr == ""


def test_weights_outside_the_folder_are_not_read(tmp_path: Path) -> None:
    source = float_net(tmp_path / "net.onnx")
    (tmp_path / "inner").mkdir()
    inner = tmp_path / "inner" / "net.onnx"
    onnx.save(
        onnx.load(source),
        inner,
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    data = inner.read_bytes().replace(b"weights.bin", b"../leak.bin")
    inner.write_bytes(data)
    (tmp_path / "leak.bin").write_bytes(bytes(100_000))
    with pytest.raises(ModelError, match=r"\.\./leak\.bin"):
        BACKEND.build(inner, tmp_path / "out.onnx")
    with pytest.raises(ModelError, match=r"\.\./leak\.bin"):
        BACKEND.open(Artifact("onnxruntime", inner))


def test_a_fixed_batch_takes_that_batch_only(tmp_path: Path) -> None:
    source = float_net(tmp_path / "net.onnx", batch=4)
    with pytest.raises(ModelError, match="batch is fixed, asked for 1 to 8"):
        BACKEND.build(source, tmp_path / "a.onnx", BuildOptions(batch=ShapeRange(1, 1, 8)))
    BACKEND.build(source, tmp_path / "b.onnx", BuildOptions(batch=ShapeRange(4, 4, 4)))


def test_inputs_that_the_network_cannot_take_are_an_input_error(tmp_path: Path) -> None:
    """Free height and width pass the specs; the Gemm behind them then fails inside the session."""
    source = float_net(tmp_path / "net.onnx")
    model = onnx.load(source)
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"free{axis}"
    del model.graph.node[2]  # without the pooling the Gemm's width follows the image
    model.graph.node[2].input[0] = "relu_out"
    onnx.save(model, source)
    runner = BACKEND.open(Artifact("onnxruntime", source))
    with pytest.raises(InputError, match="ONNX Runtime cannot run these inputs"):
        runner.infer({"images": images(1)})


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_the_sessions(tmp_path: Path, threads: int) -> None:
    source = float_net(tmp_path / "net.onnx")
    before = threading.active_count()
    with BACKEND.open(Artifact("onnxruntime", source), threads=threads) as runner:
        options = runner._session.get_session_options()  # type: ignore[attr-defined]
        assert options.intra_op_num_threads == threads
        assert options.inter_op_num_threads == 1
    assert threading.active_count() == before
