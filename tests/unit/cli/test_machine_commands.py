"""``targets``, ``doctor`` and ``build-engine`` as a user runs them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from edgevision.backends import get_backend
from tests.conformance.graphs import float_net, quantized_net

Cli = Callable[..., CompletedProcess[str]]


def test_targets_lists_them_with_what_works_here(cli: Cli) -> None:
    done = cli("targets")
    assert done.returncode == 0, done.stderr
    for word in ("cpu", "rtx", "jetson-orin-nano@6.2", "onnxruntime", "tensorrt_rtx"):
        assert word in done.stdout
    assert "jetson-thor@7.0: its engines are built and run on the Thor itself." in done.stdout


def test_one_target_with_all_its_fields(cli: Cli) -> None:
    done = cli("targets", "jetson-orin-nx@6.0")
    assert done.returncode == 0, done.stderr
    for word in ("tensorrt 8.6.2", "opset", "5.1, 6.0, 6.1, 6.2, 7.2"):
        assert word in done.stdout
    (found,) = json.loads(cli("targets", "jetson-orin-nx@6.0", "--json").stdout)
    assert found["jetpack"]["tensorrt"] == "8.6.2"
    assert found["builds_here"]["ok"] is False


def test_an_unknown_target_is_a_usage_error(cli: Cli) -> None:
    done = cli("targets", "jetson-orin-nanno")
    assert done.returncode == 2
    assert "Did you mean 'jetson-orin-nano'?" in done.stderr


def test_a_target_file_with_an_unknown_field(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "board.yaml"
    path.write_text("tilte: x\n", encoding="utf-8")
    done = cli("targets", path)
    assert done.returncode == 3
    assert "board.yaml" in done.stderr


def test_doctor_tells_what_works_and_what_to_install(cli: Cli) -> None:
    done = cli("doctor")
    assert done.returncode == 0, done.stderr
    for word in ("Python 3.", "Backends", "Targets", "onnxruntime"):
        assert word in done.stdout
    if not get_backend("tensorrt").is_available().ok:
        assert "JetPack" in done.stdout
    found = json.loads(cli("doctor", "--json").stdout)
    assert found["backends"]["onnxruntime"]["runs"]["ok"]


@pytest.mark.skipif(
    not get_backend("tensorrt_rtx").is_available().ok, reason="tensorrt-rtx is not installed"
)
def test_build_engine_writes_engine_and_sidecar(cli: Cli, tmp_path: Path) -> None:
    net = quantized_net(tmp_path / "net.onnx")
    done = cli(
        "build-engine", net, "--target", "rtx", "--compute-capability", "86",
        "--compute-capability", "89", "--max-batch", 4, "--out", tmp_path / "net.engine",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Conv" in done.stdout
    assert "int8" in done.stdout
    sidecar = json.loads((tmp_path / "net.engine.json").read_bytes())
    assert sidecar["compute_capabilities"] == ["86", "89"]
    assert sidecar["batch"] == {"min": 1, "opt": 1, "max": 4}
    assert sidecar["build_seconds"] > 0


@pytest.mark.skipif(
    not get_backend("tensorrt_rtx").is_available().ok, reason="tensorrt-rtx is not installed"
)
def test_build_engine_takes_shapes_and_options(cli: Cli, tmp_path: Path) -> None:
    net = quantized_net(tmp_path / "net.onnx")
    done = cli(
        "build-engine", net, "--target", "rtx", "--compute-capability", "86", "--sparsity",
        "--min-shapes", "images:1x3x16x16", "--opt-shapes", "images:2x3x16x16",
        "--max-shapes", "images:4x3x16x16", "--float-precision", "fp32", "--builder-level", 1,
        "--weight-streaming",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    sidecar = json.loads((tmp_path / "net.rtx.engine.json").read_bytes())
    assert sidecar["flags"] == ["STRONGLY_TYPED", "SPARSE_WEIGHTS", "WEIGHT_STREAMING"]
    assert sidecar["batch"] == {"min": 1, "opt": 2, "max": 4}
    assert sidecar["builder_level"] == 1
    assert sidecar["float_precision"] == {"wanted": "fp32", "used": ["fp32"]}


@pytest.mark.skipif(
    not get_backend("tensorrt_rtx").is_available().ok, reason="tensorrt-rtx is not installed"
)
@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--target", "rtx", "--min-batch", "8", "--max-batch", "4"), 2, "1 <= min <= opt <= max"),
        (("--target", "rtx", "--compute-capability", "75"), 6, "FP32"),
        (("--target", "rtx", "--compute-capability", "87"), 6, "Jetson"),
        (("--target", "rxt"), 2, "Did you mean 'rtx'?"),
        (("--target", "rtx", "--float-precision", "int8"), 2, "neither fp32 nor fp16"),
        (("--target", "rtx", "--opt-shapes", "1x3x16x16"), 2, "NAME:AxBxC"),
        (("--target", "rtx", "--opt-shapes", "image:1x3x16x16"), 2, "Did you mean 'images'?"),
        (("--target", "rtx", "--opt-shapes", "images:1x3x8x8"), 3, "asked for 1x3x8x8"),
        (("--target", "rtx", "--version-compatible"), 6, "--version-compatible: the library"),
        (("--target", "jetson-orin-nano", "--dla-core", "0"), 6, "has 0 DLA cores"),
        (("--target", "jetson-thor"), 6, "on the Thor itself"),
    ],
)
def test_build_engine_refuses_with_the_reason(
    cli: Cli, tmp_path: Path, arguments: tuple[str, ...], code: int, told: str
) -> None:
    done = cli("build-engine", float_net(tmp_path / "net.onnx"), *arguments)
    assert done.returncode == code
    assert told in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_tensorrt_where_there_is_none_is_exit_code_6(cli: Cli, tmp_path: Path) -> None:
    available = get_backend("tensorrt").is_available()
    if available.ok:
        pytest.skip(available.reason)
    done = cli("build-engine", float_net(tmp_path / "net.onnx"), "--target", "gpu")
    assert done.returncode == 6
    assert available.reason in done.stderr
