"""Real builds with TensorRT-RTX, which needs no GPU to build."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgevision.backends import get_backend
from edgevision.backends.base import Artifact, BuildOptions, ShapeRange
from edgevision.backends.shapes import InputShapes
from edgevision.errors import InputError, ModelError, UnavailableError
from tests.conformance.graphs import float_net, quantized_net

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed", exc_type=ImportError)

OPTIONS = BuildOptions(batch=ShapeRange(1, 2, 8), compute_capabilities=("86",))


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return quantized_net(tmp_path / "net.onnx")


def build(source: Path, **changes: object) -> Artifact:
    output = source.with_suffix(".engine")
    return get_backend("tensorrt_rtx").build(source, output, replace(OPTIONS, **changes))


@pytest.mark.parametrize("capabilities", [("86",), ("89",), ("120",), ("86", "89", "120")])
def test_conv_and_gemm_run_in_int8(net: Path, capabilities: tuple[str, ...]) -> None:
    artifact = build(net, compute_capabilities=capabilities)
    assert artifact.path.read_bytes()[:4] == b"vtrt"
    precisions = {
        layer.operator: layer.precision
        for layer in artifact.layers
        if layer.operator in ("Conv", "Gemm")
    }
    assert precisions == {"Conv": "int8", "Gemm": "int8"}
    assert artifact.meta["compute_capabilities"] == list(capabilities)
    assert artifact.meta["version"].startswith("1.")
    assert artifact.meta["batch"] == {"min": 1, "opt": 2, "max": 8}


def test_a_float_graph_is_reported_as_float(tmp_path: Path) -> None:
    layers = build(float_net(tmp_path / "float.onnx")).layers
    found = {layer.operator: layer.precision for layer in layers}
    assert found["Conv"] == "fp32"
    assert "int8" not in found.values()


def test_weights_quantized_on_the_wrong_axis_are_seen_in_the_report(net: Path) -> None:
    """TensorRT takes them without a word and runs in FP32; the report must not hide it."""
    model = onnx.load(net)
    for node in model.graph.node:
        if node.output[0] == "conv_weight_dq":
            node.attribute[0].i = 1
    for tensor in model.graph.initializer:
        if tensor.name in ("conv_weight_scale", "conv_weight_zero"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[:3], tensor.name))
    onnx.save(model, net)
    found = {layer.operator: layer.precision for layer in build(net).layers}
    assert found["Conv"] == "fp32"
    assert found["Gemm"] == "int8"


def test_an_unknown_operator_is_named_with_its_node(net: Path) -> None:
    model = onnx.load(net)
    next(n for n in model.graph.node if n.name == "relu").op_type = "Frobnicate"
    onnx.save(model, net)
    with pytest.raises(ModelError, match=r"'relu' \(Frobnicate\): no such operator"):
        build(net)


def test_a_custom_operator_is_named_with_its_domain(net: Path) -> None:
    model = onnx.load(net)
    node = next(n for n in model.graph.node if n.name == "relu")
    node.op_type, node.domain = "Mine", "my.ops"
    model.opset_import.append(helper.make_opsetid("my.ops", 1))
    onnx.save(model, net)
    with pytest.raises(ModelError, match=r"'relu' \(my\.ops\.Mine\): no such operator"):
        build(net)


def test_a_cut_file_is_told_as_such(net: Path) -> None:
    net.write_bytes(net.read_bytes()[:500])
    with pytest.raises(ModelError, match=r"'net\.onnx' is no whole ONNX file \(500 bytes\)"):
        build(net)


def test_free_image_size_is_refused(net: Path) -> None:
    model = onnx.load(net)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    onnx.save(model, net)
    with pytest.raises(ModelError, match="nothing says which sizes") as caught:
        build(net)
    assert "--min-shapes images:1x3x224x16" in (caught.value.hint or "")


def test_a_free_image_size_is_built_for_the_shapes_given(net: Path) -> None:
    model = onnx.load(net)
    for axis, name in ((2, "height"), (3, "width")):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    onnx.save(model, net)
    shapes = {"images": InputShapes((1, 3, 8, 8), (2, 3, 16, 16), (4, 3, 32, 32))}
    artifact = build(net, shapes=shapes)
    assert artifact.meta["batch"] == {"min": 1, "opt": 2, "max": 4}
    assert artifact.meta["shapes"]["images"]["max"] == [4, 3, 32, 32]
    assert {layer.precision for layer in artifact.layers if layer.operator == "Conv"} == {"int8"}


def test_several_faults_are_told_at_once(net: Path) -> None:
    model = onnx.load(net)
    for node in model.graph.node:
        if node.name in ("relu", "pool"):
            node.op_type = f"Frobnicate{node.name}"
    onnx.save(model, net)
    with pytest.raises(ModelError) as caught:
        build(net)
    assert "'relu' (Frobnicaterelu): no such operator" in caught.value.message
    assert "'pool' (Frobnicatepool): no such operator" in caught.value.message


def test_shapes_that_do_not_fit_are_told_once_and_without_the_missing_driver(
    tmp_path: Path,
) -> None:
    net = float_net(tmp_path / "net.onnx")
    model = onnx.load(net)
    for tensor in model.graph.initializer:
        if tensor.name == "gemm_weight":
            tensor.CopyFrom(numpy_helper.from_array(np.ones((10, 17), np.float32), tensor.name))
    onnx.save(model, net)
    with pytest.raises(
        ModelError, match=r"'gemm' \(Gemm\): .*16 and .*17 but must match"
    ) as caught:
        build(net)
    assert "cudaError" not in caught.value.message
    assert caught.value.message.count("Output shape can not be computed") <= 1


def test_a_fault_inside_a_subgraph_names_the_node_in_there(tmp_path: Path) -> None:
    net = float_net(tmp_path / "net.onnx")
    model = onnx.load(net)
    branches = []
    for name, operator in (("inner", "Frobnicate"), ("other", "Relu")):
        made = helper.make_node(operator, ["conv_out"], [f"{name}_out"], name=name)
        value = helper.make_tensor_value_info(f"{name}_out", onnx.TensorProto.FLOAT, None)
        branches.append(helper.make_graph([made], name, [], [value]))
    choice = helper.make_node(
        "If", ["flag"], ["relu_out"], name="if", then_branch=branches[0], else_branch=branches[1]
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "flag"))
    relu = next(n for n in model.graph.node if n.name == "relu")
    relu.CopyFrom(choice)
    onnx.save(model, net)
    with pytest.raises(ModelError, match=r"'inner' \(Frobnicate\): no such operator"):
        build(net)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"dla_core": 0}, "--dla-core: it ignores the DLA"),
        ({"timing_cache": Path("timing.cache")}, "--timing-cache: its timing cache is empty"),
        ({"version_compatible": True}, "--version-compatible: the library"),
        ({"hardware_compatible": True}, "--hardware-compatible: it ignores that"),
    ],
)
def test_what_rtx_would_ignore_or_fail_at_is_refused(
    asked: dict[str, object], told: str, net: Path
) -> None:
    with pytest.raises(UnavailableError, match=told):
        build(net, **asked)
    assert [path.name for path in net.parent.iterdir()] == ["net.onnx"]


def test_refit_wants_a_gpu(net: Path) -> None:
    if get_backend("tensorrt_rtx").can_run().ok:
        pytest.skip("this machine has a GPU")
    with pytest.raises(UnavailableError, match="--refit on a machine with an NVIDIA GPU"):
        build(net, refit=True)


def test_options_that_rtx_has_are_in_the_sidecar(net: Path) -> None:
    artifact = build(
        net, sparsity=True, weight_streaming=True, builder_level=0, tactic_memory_mb=512
    )
    assert {"SPARSE_WEIGHTS", "WEIGHT_STREAMING"} <= set(artifact.meta["flags"])
    assert artifact.meta["builder_level"] == 0
    assert artifact.meta["tactic_memory_mb"] == 512


def test_opset_99_is_refused_though_the_parser_takes_it(net: Path) -> None:
    model = onnx.load(net)
    model.opset_import[0].version = 99
    onnx.save(model, net)
    with pytest.raises(ModelError, match=r"opset 99.*9 to 25"):
        build(net)


def test_turing_is_refused_with_the_reason(net: Path) -> None:
    with pytest.raises(UnavailableError, match=r"75 .*FP32"):
        build(net, compute_capabilities=("86", "75"))
    with pytest.raises(UnavailableError) as caught:
        build(net, compute_capabilities=("87",))
    assert "Jetson" in (caught.value.hint or "")


def test_turing_among_others_would_make_the_engine_float(
    net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason that the refusal gives, seen on the real builder."""
    import edgevision.backends._trt_options as module

    def unchecked(trt: object, config: object, wanted: tuple[str, ...]) -> None:
        config.num_compute_capabilities = len(wanted)  # type: ignore[attr-defined]
        for index, name in enumerate(wanted):
            member = getattr(trt.ComputeCapability, f"SM{name}")  # type: ignore[attr-defined]
            assert config.set_compute_capability(member, index)  # type: ignore[attr-defined]

    model = onnx.load(net)  # the Gemm would not build for Turing at all
    kept = [n for n in model.graph.node if n.op_type != "Gemm" and "gemm" not in n.output[0]]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    model.graph.output[0].CopyFrom(
        helper.make_tensor_value_info("flat_dq", onnx.TensorProto.FLOAT, ["batch", 16])
    )
    onnx.save(model, net)
    monkeypatch.setattr(module, "_set_capabilities", unchecked)
    for capabilities, expected in ((("86",), "int8"), (("75", "86"), "fp32")):
        layers = build(net, compute_capabilities=capabilities).layers
        assert {layer.operator: layer.precision for layer in layers}["Conv"] == expected


def test_a_tiny_workspace_is_told_with_the_way_out(tmp_path: Path) -> None:
    net = float_net(tmp_path / "net.onnx")
    model = onnx.load(net)
    big = np.ones((2048, 3, 7, 7), np.float32)
    for tensor in model.graph.initializer:
        if tensor.name == "conv_weight":
            tensor.CopyFrom(numpy_helper.from_array(big, "conv_weight"))
        elif tensor.name == "conv_bias":
            tensor.CopyFrom(numpy_helper.from_array(big[:, 0, 0, 0], "conv_bias"))
        elif tensor.name == "gemm_weight":
            tensor.CopyFrom(numpy_helper.from_array(np.ones((10, 2048), np.float32), tensor.name))
    onnx.save(model, net)
    with pytest.raises(ModelError, match="workspace") as caught:
        build(net, workspace_mb=1)
    assert "--workspace-mb" in (caught.value.hint or "")


@pytest.mark.parametrize("zero_point", [0, 128])
def test_uint8_activations_are_refused(tmp_path: Path, zero_point: int) -> None:
    net = quantized_net(tmp_path / "net.onnx", activations="uint8", zero_point=zero_point)
    with pytest.raises(ModelError) as caught:
        build(net)
    assert "scheme 'tensorrt'" in (caught.value.hint or "")


def test_without_gpu_a_capability_must_be_named(net: Path) -> None:
    if get_backend("tensorrt_rtx").can_run().ok:
        pytest.skip("this machine has a GPU")
    with pytest.raises(UnavailableError, match="no compute capability"):
        build(net, compute_capabilities=())


def test_a_refused_build_leaves_nothing(net: Path) -> None:
    with pytest.raises(UnavailableError):
        build(net, compute_capabilities=("75",))
    assert [path.name for path in net.parent.iterdir()] == ["net.onnx"]


def test_ctrl_c_while_building_comes_out_as_such(net: Path) -> None:
    def progress(phase: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(net, progress=progress)
    assert [path.name for path in net.parent.iterdir()] == ["net.onnx"]


def test_progress_runs_from_nothing_to_all(net: Path) -> None:
    told: list[tuple[int, int]] = []
    build(net, progress=lambda phase, done, total: told.append((done, total)))
    assert told[0] == (0, 1000)
    assert told[-1] == (1000, 1000)
    assert told == sorted(told)


def test_a_changed_engine_is_refused_before_it_is_loaded(net: Path) -> None:
    backend = get_backend("tensorrt_rtx")
    artifact = build(net)
    data = bytearray(artifact.path.read_bytes())
    data[-1] ^= 1
    artifact.path.write_bytes(data)
    with pytest.raises(InputError, match="sha256 expected"):
        backend._plan(artifact)  # type: ignore[attr-defined]
