from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import onnx
import pytest

from edgevision.backends.base import ShapeRange
from edgevision.backends.shapes import InputShapes
from edgevision.errors import InputError, ModelError, UnavailableError, UsageError
from edgevision.files import sha256_file
from edgevision.kit import import_kit, write_kit
from edgevision.kit.contents import parse_kit
from edgevision.types import Precision
from tests.conformance.graphs import float_net, quantized_net
from tests.unit.kit.conftest import bundle_of

NANO = "jetson-orin-nano@6.2"


def floats(path: Path) -> set[int]:
    return {tensor.data_type for tensor in onnx.load(path).graph.initializer} - {3, 7}


def test_a_kit_of_a_file_holds_it_and_its_float16_form(tmp_path: Path) -> None:
    net = float_net(tmp_path / "net.onnx")
    kit = write_kit(net, NANO, tmp_path / "kit")
    folder = tmp_path / "kit"
    assert {path.name for path in folder.iterdir()} == {
        "kit.json", "SHA256SUMS", "build.sh", "README.txt", "options.txt",
        "model.onnx", "model.fp16.onnx",
    }  # fmt: skip
    assert (folder / "model.onnx").read_bytes() == net.read_bytes()
    assert onnx.TensorProto.FLOAT16 in floats(folder / "model.fp16.onnx")
    assert parse_kit((folder / "kit.json").read_bytes()) == kit
    assert kit.target.reference == NANO
    assert kit.source.sha256 == sha256_file(net)
    assert kit.asked.batch.model_dump() == {"min": 1, "opt": 1, "max": 32}
    assert kit.asked.workspace_mb == 1024
    checked = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout
    assert checked.stdout.count(": OK") == 6, "all but itself"
    readme = (folder / "README.txt").read_text()
    assert "jetson-orin-nano@6.2" in readme
    assert "--out net.engine" in readme
    assert "$" not in readme


def test_a_kit_of_a_bundle_holds_the_graph_that_was_proven(tmp_path: Path) -> None:
    place = bundle_of(tmp_path)
    kit = write_kit(place, NANO, tmp_path / "kit")
    assert kit.source.path == "model.int8.tensorrt.onnx"
    assert kit.source.bundle == sha256_file(place / "manifest.json")
    assert kit.graphs.typed == kit.graphs.flagged == "model.onnx"
    assert kit.files["model.onnx"].sha256 == kit.source.sha256
    assert kit.trtexec.flagged == ("--int8", "--fp16")
    assert "--bundle BUNDLE" in (tmp_path / "kit/README.txt").read_text()


def test_fp32_asked_for_is_neither_converted_nor_flagged(tmp_path: Path) -> None:
    net = float_net(tmp_path / "net.onnx")
    kit = write_kit(net, NANO, tmp_path / "kit", float_precision=Precision.FP32)
    assert kit.graphs.typed == "model.onnx"
    assert kit.trtexec.flagged == ()
    assert kit.float_precision == "fp32"


def test_a_fixed_batch_needs_no_shapes(tmp_path: Path) -> None:
    kit = write_kit(float_net(tmp_path / "net.onnx", batch=4), NANO, tmp_path / "kit")
    assert not [option for option in kit.trtexec.build if "Shapes" in option]
    assert kit.trtexec.measure == ()
    assert kit.asked.batch.model_dump() == {"min": 4, "opt": 4, "max": 4}


def test_names_that_trtexec_would_split_are_quoted_or_refused(tmp_path: Path) -> None:
    def named(name: str) -> Path:
        model = onnx.load(float_net(tmp_path / "net.onnx"))
        for node in model.graph.node:
            node.input[:] = [name if one == "images" else one for one in node.input]
        model.graph.input[0].name = name
        onnx.save(model, tmp_path / "renamed.onnx")
        return tmp_path / "renamed.onnx"

    kit = write_kit(named("images:0"), NANO, tmp_path / "kit")
    assert "--optShapes='images:0':1x3x16x16" in kit.trtexec.build
    for name in ("a,b", "a'b", 'a"b', "a*", "a\nbuild --best"):
        with pytest.raises(InputError, match="cannot be named to trtexec"):
            write_kit(named(name), NANO, tmp_path / "kit")


@pytest.mark.parametrize(
    ("target", "choices", "error", "reason"),
    [
        ("rtx", {}, UsageError, "runs tensorrt_rtx"),
        ("cpu", {}, UsageError, "runs onnxruntime"),
        (NANO, {"dla_core": 0}, UnavailableError, "0 DLA cores"),
        (NANO, {"hardware_compatible": True}, UnavailableError, "not support that on a Jetson"),
        (NANO, {"builder_level": 9}, UsageError, "0 to 5"),
        ("jetson-orin-nano@5.1", {}, ModelError, "'net.onnx' is of ONNX opset 18.* 9 to 17"),
        (NANO, {"shapes": {"x": InputShapes((1,), (1,), (1,))}}, UsageError, "Unknown input 'x'"),
        (
            "jetson-orin-nx@6.2",
            {"dla_core": 0, "batch": ShapeRange(1, 1, 2)},
            UsageError,
            "DLA takes fixed shapes",
        ),
    ],
)
def test_what_cannot_be_built_there_is_refused_here(
    tmp_path: Path, target: str, choices: dict[str, object], error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        write_kit(float_net(tmp_path / "net.onnx"), target, tmp_path / "kit", **choices)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx"]


def test_a_bundles_graph_is_built_as_it_was_proven(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="as it is"):
        write_kit(bundle_of(tmp_path), NANO, tmp_path / "kit", float_precision=Precision.FP16)


def test_only_a_kit_that_was_not_run_is_replaced(tmp_path: Path) -> None:
    net, folder = float_net(tmp_path / "net.onnx"), tmp_path / "kit"
    folder.mkdir()
    write_kit(quantized_net(tmp_path / "other.onnx"), NANO, folder)
    write_kit(net, NANO, folder)
    assert json.loads((folder / "kit.json").read_text())["source"]["path"] == "net.onnx"
    (folder / "work").mkdir()
    with pytest.raises(InputError, match="was run"):
        write_kit(net, NANO, folder)
    with pytest.raises(InputError, match="is no kit"):
        write_kit(net, NANO, tmp_path)


@pytest.mark.parametrize(
    ("board", "option"),
    [("5.1", "builder_level"), ("5.1", "version_compatible"), ("6.0", "weight_streaming")],
)
def test_options_that_the_board_has_no_name_for_are_refused_here(
    board: str, option: str, tmp_path: Path
) -> None:
    net = float_net(tmp_path / "net.onnx", opset=17)
    choices: dict[str, Any] = {option: 3 if option == "builder_level" else True}
    with pytest.raises(UnavailableError, match=f"--{option.replace('_', '-')} takes TensorRT"):
        write_kit(net, f"jetson-orin-nano@{board}", tmp_path / "kit", **choices)
    assert not (tmp_path / "kit").exists()


def test_a_kit_goes_into_the_empty_folder_that_one_stands_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = float_net(tmp_path / "net.onnx", opset=17)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write_kit(net, "jetson-orin-nano@6.2", ".")
    assert (tmp_path / "here" / "build.sh").is_file()


def test_a_kit_that_was_not_run_has_no_result(tmp_path: Path) -> None:
    net = float_net(tmp_path / "net.onnx", opset=17)
    write_kit(net, "jetson-orin-nano@6.2", tmp_path / "kit")
    with pytest.raises(InputError, match="was not run yet"):
        import_kit(tmp_path / "kit", out=tmp_path / "net.engine")
