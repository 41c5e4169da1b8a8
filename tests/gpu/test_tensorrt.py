"""Engines that run: skipped with the reason where there is no GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgevision.backends import get_backend
from edgevision.backends.base import Artifact, BuildOptions, ShapeRange
from edgevision.errors import InputError
from tests.conformance.graphs import float_net, images, quantized_net

pytestmark = pytest.mark.gpu


@pytest.fixture(params=["tensorrt", "tensorrt_rtx"])
def name(request: pytest.FixtureRequest) -> str:
    backend = get_backend(request.param)
    for found in (backend.is_available(), backend.can_run()):
        if not found.ok:
            pytest.skip(f"{request.param}: {found.reason}")
    return str(request.param)


@pytest.mark.parametrize("make", [float_net, quantized_net])
def test_an_engine_gives_what_onnxruntime_gives(name: str, make: object, tmp_path: Path) -> None:
    source = make(tmp_path / "net.onnx")  # type: ignore[operator]
    backend = get_backend(name)
    options = BuildOptions(batch=ShapeRange(1, 4, 8))
    artifact = backend.build(source, tmp_path / "net.engine", options)
    with (
        get_backend("onnxruntime").open(Artifact("onnxruntime", source)) as cpu,
        backend.open(artifact) as gpu,
    ):
        for count in (1, 8, 3):
            expected = cpu.infer({"images": images(count)})["logits"]
            found = gpu.infer({"images": images(count)})["logits"]
            # INT8: both round to the same grid, so at most a few steps of the last scale apart.
            np.testing.assert_allclose(found, expected, rtol=2e-2, atol=5e-2)
        with pytest.raises(InputError, match="expected"):
            gpu.infer({"images": images(9)})


def test_the_layers_say_int8(name: str, tmp_path: Path) -> None:
    source = quantized_net(tmp_path / "net.onnx")
    artifact = get_backend(name).build(source, tmp_path / "net.engine")
    assert "int8" in {layer.precision for layer in artifact.layers}
