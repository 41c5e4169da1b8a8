from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgevision.bundle import BundleWriter, Lineage
from edgevision.preprocessing import Preprocessing
from edgevision.types import TensorSpec


def _write(folder: Path, source: Path, *, images: int = 2, seed: int = 0) -> Path:
    """A small bundle with two files that play ONNX graphs, golden vectors and a calibration."""
    generator = np.random.default_rng(seed)
    source.mkdir(parents=True, exist_ok=True)
    (source / "a.onnx").write_bytes(generator.bytes(3000))
    (source / "b.onnx").write_bytes(generator.bytes(700))
    with BundleWriter(
        folder,
        task="classification",
        labels=["cat", "dog", "bird"],
        target="cpu",
        inputs=[TensorSpec("input", ("batch", 3, 8, 8))],
        outputs=[TensorSpec("logits", ("batch", 3))],
        preprocessing=Preprocessing(8, 8, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
    ) as writer:
        writer.add_file(
            source / "a.onnx", "model.fp32.onnx", kind="onnx", role="baseline", precision="fp32"
        )
        writer.add_file(
            source / "b.onnx",
            "model.int8.x86-vnni.onnx",
            kind="onnx",
            role="shipped",
            backend="onnxruntime",
            precision="int8",
            scheme="x86-vnni",
        )
        writer.add_bytes(b"{}\n", "calibration.json", kind="calibration")
        writer.add_golden_inputs(
            [generator.integers(0, 256, (10, 12, 3), dtype=np.uint8) for _ in range(images)]
        )
        outputs = {"logits": generator.standard_normal((images, 3)).astype(np.float32)}
        writer.add_golden_outputs("model.fp32.onnx", outputs)
        writer.finish(lineage=Lineage(model="tiny", data="none", digests={"validation": "abc"}))
    return folder


@pytest.fixture(scope="session")
def write() -> Callable[[Path, Path], Path]:
    """Writes a bundle to the first path, from files that it puts into the second."""
    return _write


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return _write(tmp_path / "bundle", tmp_path / "source")
