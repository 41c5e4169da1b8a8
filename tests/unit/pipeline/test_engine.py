from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgevision.backends import get_backend
from edgevision.backends.base import ShapeRange
from edgevision.bundle import BundleWriter, Lineage, open_bundle, write_zip
from edgevision.bundle.engines import engine_sidecar
from edgevision.errors import InputError, UnavailableError, UsageError
from edgevision.pipeline.engine import build_engine
from edgevision.preprocessing import Preprocessing
from edgevision.types import TensorSpec
from tests.conformance.graphs import float_net, quantized_net

needs_rtx = pytest.mark.skipif(
    not get_backend("tensorrt_rtx").is_available().ok,
    reason="tensorrt-rtx is not installed",
)


def bundle(
    tmp_path: Path,
    *,
    schemes: tuple[str, ...] = ("tensorrt", "x86-vnni"),
    unproven: tuple[str, ...] = (),
) -> Path:
    folder = tmp_path / "bundle"
    with BundleWriter(
        folder,
        task="classification",
        labels=[str(i) for i in range(10)],
        target="rtx",
        inputs=[TensorSpec("images", ("batch", 3, 16, 16))],
        outputs=[TensorSpec("logits", ("batch", 10))],
        preprocessing=Preprocessing(height=16, width=16),
    ) as writer:
        baseline = float_net(tmp_path / "float.onnx")
        writer.add_file(
            baseline, "model.fp32.onnx", kind="onnx", role="baseline",
            backend="onnxruntime", precision="fp32",
        )  # fmt: skip
        for scheme in schemes:
            kind = "int8" if scheme == "tensorrt" else "uint8"
            graph = quantized_net(tmp_path / f"{scheme}.onnx", activations=kind)
            writer.add_file(
                graph, f"model.int8.{scheme}.onnx", kind="onnx", role="candidate",
                backend="onnxruntime", precision="int8", scheme=scheme,
            )  # fmt: skip
        for scheme in unproven:
            graph = quantized_net(tmp_path / f"a-{scheme}.onnx")
            writer.add_file(
                graph, f"a.int8.{scheme}.onnx", kind="onnx",
                backend="onnxruntime", precision="int8", scheme=scheme,
            )  # fmt: skip
        writer.finish(lineage=Lineage(model="net"))
    return folder


@needs_rtx
@pytest.mark.parametrize("packed", [False, True])
def test_a_bundle_gets_the_engine_of_the_targets_scheme(tmp_path: Path, packed: bool) -> None:
    place = bundle(tmp_path)
    if packed:
        place = write_zip(place, tmp_path / "bundle.zip")
    result = build_engine(place, "rtx", compute_capabilities=["86"])
    with open_bundle(place) as opened:
        (entry,) = [e for e in opened.manifest.runnable() if e.kind == "engine"]
        sidecar = engine_sidecar(opened, entry)
        source = opened.manifest.artifact("model.int8.tensorrt.onnx")
        assert opened.path(entry).read_bytes()[:4] == b"vtrt"
    assert result.place.endswith(entry.path)
    assert (entry.target, entry.scheme, entry.backend) == ("rtx", "tensorrt", "tensorrt_rtx")
    assert entry.meta["compute_capabilities"] == ["86"]
    assert sidecar["onnx_sha256"] == source.sha256
    assert sidecar["sha256"] == entry.sha256
    assert sidecar["target"] == "rtx"
    assert entry.meta["batch"] == {"min": 1, "opt": 1, "max": 32}, "the form that session reads"
    assert entry.role == source.role == "candidate"
    assert "build_seconds" not in sidecar, "it differs between two builds of the same bundle"
    assert result.sidecar["build_seconds"] > 0
    assert sidecar["float_precision"] == {"wanted": "fp16", "used": ["fp32"]}
    assert {"operator": "Conv", "precision": "int8"}.items() <= next(
        layer for layer in sidecar["layers"] if layer["operator"] == "Conv"
    ).items()


@needs_rtx
@pytest.mark.parametrize(
    ("schemes", "source", "role"),
    [
        (("tensorrt",), "model.int8.tensorrt.onnx", "candidate"),
        ((), "a.int8.tensorrt.onnx", None),
    ],
)
def test_a_proven_graph_comes_first_and_the_engine_takes_its_role(
    tmp_path: Path, schemes: tuple[str, ...], source: str, role: str | None
) -> None:
    place = bundle(tmp_path, schemes=schemes, unproven=("tensorrt",))
    build_engine(place, "rtx", compute_capabilities=["86"])
    with open_bundle(place) as opened:
        (entry,) = [e for e in opened.manifest.runnable() if e.kind == "engine"]
        assert entry.meta["onnx_sha256"] == opened.manifest.artifact(source).sha256
        assert entry.role == role


@needs_rtx
def test_an_onnx_file_gets_an_engine_beside_it_with_its_sidecar(tmp_path: Path) -> None:
    result = build_engine(quantized_net(tmp_path / "net.onnx"), "rtx")
    engine = tmp_path / "net.rtx.engine"
    assert result.place == str(engine)
    assert json.loads((tmp_path / "net.rtx.engine.json").read_bytes()) == result.sidecar
    assert result.sidecar["compute_capabilities"] == ["80", "86", "89", "120", "121"]
    assert result.sidecar["batch"] == {"min": 1, "opt": 1, "max": 32}


@needs_rtx
def test_a_fixed_batch_is_taken_as_it_is(tmp_path: Path) -> None:
    net = quantized_net(tmp_path / "net.onnx", batch=4)
    sidecar = build_engine(net, "rtx", out=tmp_path / "a").sidecar
    assert sidecar["batch"] == {"min": 4, "opt": 4, "max": 4}
    with pytest.raises(InputError, match="batch is fixed"):
        build_engine(net, "rtx", batch=ShapeRange(1, 1, 8), out=tmp_path / "b")


@needs_rtx
def test_an_engine_may_be_written_beside_the_bundle(tmp_path: Path) -> None:
    place = bundle(tmp_path)
    before = (place / "manifest.json").read_bytes()
    build_engine(place, "rtx", out=tmp_path / "my.engine", compute_capabilities=["89"])
    assert (tmp_path / "my.engine.json").is_file()
    assert (place / "manifest.json").read_bytes() == before


@needs_rtx
def test_a_bundle_without_the_scheme_is_told_what_it_has(tmp_path: Path) -> None:
    place = bundle(tmp_path, schemes=("x86-vnni",))
    with pytest.raises(InputError, match=r"scheme 'tensorrt'.*it has: x86-vnni"):
        build_engine(place, "rtx")


def test_a_bundle_needs_no_engine_on_the_cpu(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to build"):
        build_engine(bundle(tmp_path), "cpu")


def test_an_onnx_file_for_the_cpu_is_checked_and_copied(tmp_path: Path) -> None:
    net = float_net(tmp_path / "net.onnx")
    result = build_engine(net, "cpu", out=tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == net.read_bytes()
    assert isinstance(result.sidecar["sha256"], str)


def test_another_devices_engine_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"jetson-orin-nano@6\.2") as caught:
        build_engine(float_net(tmp_path / "net.onnx"), "jetson-orin-nano")
    assert "build there" in (caught.value.hint or "")
    assert caught.value.exit_code == 6


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.onnx"):
        build_engine(tmp_path / "gone.onnx", "cpu")


@needs_rtx
def test_a_missing_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gone"):
        build_engine(tmp_path / "gone", "rtx")
