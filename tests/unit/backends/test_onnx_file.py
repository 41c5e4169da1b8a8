from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from edgevision.backends.onnx_file import read_onnx
from edgevision.errors import ModelError
from edgevision.types import TensorSpec
from tests.conformance.graphs import float_net, quantized_net


def test_it_reads_what_onnx_reads(tmp_path: Path) -> None:
    path = quantized_net(tmp_path / "net.onnx", opset=17)
    model = onnx.load(path)
    file = read_onnx(path)
    assert file.opsets == {"": 17}
    assert [(n.name, n.operator, n.domain) for n in file.nodes] == [
        (n.name, n.op_type, n.domain) for n in model.graph.node
    ]
    assert [n.outputs for n in file.nodes] == [tuple(n.output) for n in model.graph.node]
    assert file.inputs == (TensorSpec("images", ("batch", 3, 16, 16)),)
    assert file.is_quantized
    assert not read_onnx(float_net(tmp_path / "float.onnx")).is_quantized


def test_inputs_that_are_weights_too_are_left_out(tmp_path: Path) -> None:
    path = float_net(tmp_path / "net.onnx", batch=2)
    model = onnx.load(path)
    model.graph.input.append(helper.make_tensor_value_info("conv_bias", TensorProto.FLOAT, [16]))
    onnx.save(model, path)
    assert read_onnx(path).inputs == (TensorSpec("images", (2, 3, 16, 16)),)


def test_a_free_axis_without_a_name_gets_one(tmp_path: Path) -> None:
    path = float_net(tmp_path / "net.onnx")
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].ClearField("dim_param")
    onnx.save(model, path)
    assert read_onnx(path).inputs[0].shape == ("axis0", 3, 16, 16)


def external(tensor: TensorProto, location: str) -> None:
    set_external_data(tensor, location=location)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL


@pytest.mark.parametrize("location", ["weights.bin", "../../etc/passwd", "/etc/passwd"])
def test_weights_in_other_files_are_refused(tmp_path: Path, location: str) -> None:
    path = float_net(tmp_path / "net.onnx")
    model = onnx.load(path)
    external(model.graph.initializer[0], location)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="another file") as caught:
        read_onnx(path)
    assert location in caught.value.message


def test_such_weights_are_found_in_constants_and_branches(tmp_path: Path) -> None:
    hidden = numpy_helper.from_array(np.zeros(1000, np.float32), "hidden")
    external(hidden, "elsewhere.bin")
    constant = helper.make_node("Constant", [], ["c"], value=hidden)
    branch = helper.make_graph(
        [constant], "branch", [], [helper.make_tensor_value_info("c", TensorProto.FLOAT, [1000])]
    )
    inside = helper.make_node("If", ["flag"], ["out"], then_branch=branch, else_branch=branch)
    for node in (constant, inside):
        path = float_net(tmp_path / "net.onnx")
        model = onnx.load(path)
        model.graph.node.append(node)
        path.write_bytes(model.SerializeToString())
        with pytest.raises(ModelError, match=r"elsewhere\.bin"):
            read_onnx(path)


def test_endless_nesting_is_refused(tmp_path: Path) -> None:
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [], [])
    for _ in range(24):
        node = helper.make_node("If", ["c"], ["y"], then_branch=graph)
        graph = helper.make_graph([node], "g", [], [])
    path = tmp_path / "deep.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(ModelError, match="nested deeper"):
        read_onnx(path)


@pytest.mark.parametrize("content", [b"", b"hello" * 100, b"\x80\x04\x95pickle", b"\xff" * 40])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"net\.onnx"):
        read_onnx(path)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cut=st.integers(0, 5000), place=st.integers(0, 5000), value=st.integers(0, 255))
def test_damage_is_a_model_error_or_still_a_model(
    tmp_path: Path, cut: int, place: int, value: int
) -> None:
    path = quantized_net(tmp_path / "net.onnx")
    data = bytearray(path.read_bytes())
    data[place % len(data)] = value
    path.write_bytes(data[: cut % (len(data) + 1)])
    with suppress(ModelError):  # any other exception fails the test
        read_onnx(path)
