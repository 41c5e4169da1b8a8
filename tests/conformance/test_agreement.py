"""Every backend's outputs against those that onnx itself computes of the float32 graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from edgevision.backends import BACKENDS, get_backend
from edgevision.backends.base import BuildOptions, ShapeRange
from edgevision.quantization import calibrate, emit
from edgevision.quantization.half import to_half
from edgevision.targets import load_target, target_names
from tests.conformance.graphs import float_net, images

# Least signal-to-noise ratio in dB: of float32's 24 bits, of float16's 11, of eight per layer.
BOUNDS = {"fp32": 110.0, "fp16": 60.0, "int8": 40.0}
ON_ONNX = [name for name in BACKENDS.names() if get_backend(name).source == "an ONNX file"]
COUNT = 16


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray[Any, Any]]:
    """The float32 graph and its outputs for ``images(COUNT)``."""
    path = float_net(tmp_path_factory.mktemp("reference") / "net.onnx")
    (outputs,) = ReferenceEvaluator(str(path)).run(None, {"images": images(COUNT)})
    return path, outputs


def schemes(backend: str) -> set[str]:
    """Quantization schemes of the targets that ``backend`` serves."""
    targets = [load_target(name) for name in target_names()]
    return {t.scheme for t in targets if t.backend == backend and t.scheme is not None}


def in_precision(graph: Path, precision: str, backend: str, folder: Path) -> list[Path]:
    if precision == "fp32":
        return [graph]
    if precision == "fp16":
        half = folder / "half.onnx"
        onnx.save(to_half(onnx.load(graph)), half)
        return [half]
    table = calibrate(graph, [images(64, seed=1)])
    found = []
    for scheme in sorted(schemes(backend)):
        found.append(folder / f"{scheme}.onnx")
        emit(graph, table, scheme, found[-1])
    return found


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("name", ON_ONNX)
def test_outputs_agree_with_the_reference(
    name: str, precision: str, reference: tuple[Path, np.ndarray[Any, Any]], tmp_path: Path
) -> None:
    backend = get_backend(name)
    for available in (backend.is_available(), backend.can_run()):
        if not available.ok:
            pytest.skip(f"{name}: {available.reason}")
    source, expected = reference
    graphs = in_precision(source, precision, name, tmp_path)
    assert graphs
    for graph in graphs:
        output = tmp_path / f"{graph.stem}.built{backend.artifact_suffix}"
        artifact = backend.build(graph, output, BuildOptions(batch=ShapeRange(1, 1, COUNT)))
        with backend.open(artifact, threads=1) as runner:
            found = runner.infer({"images": images(COUNT)})["logits"]
        noise = np.square(found - expected).sum()
        ratio = 10 * np.log10(np.square(expected).sum() / noise)
        assert ratio > BOUNDS[precision], f"{graph.name}: {ratio:.1f} dB"


def test_the_checkpoint_of_a_network_agrees_with_its_graph(tmp_path: Path) -> None:
    from edgevision.backends.base import Artifact
    from edgevision.export import export_onnx
    from edgevision.models.checkpoint import load_checkpoint
    from edgevision.types import TensorSpec
    from tests.conformance.test_backends import checkpoint

    weights = checkpoint(tmp_path / "checkpoint")
    module, _ = load_checkpoint(weights.parent)
    spec = TensorSpec("images", ("batch", 3, 16, 16))
    export_onnx(module, tmp_path / "net.onnx", input_spec=spec, output_names=["logits"])
    (expected,) = ReferenceEvaluator(str(tmp_path / "net.onnx")).run(None, {"images": images(4)})
    backend = get_backend("pytorch")
    artifact: Artifact = backend.build(weights, tmp_path / "built" / "model.safetensors")
    with backend.open(artifact, threads=1) as runner:
        (found,) = runner.infer({runner.input_specs[0].name: images(4)}).values()
    ratio = 10 * np.log10(np.square(expected).sum() / np.square(found - expected).sum())
    assert ratio > BOUNDS["fp32"]
