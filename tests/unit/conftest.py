"""A small real bundle for every test that runs one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from edgevision.backends import get_backend
from edgevision.backends.base import Artifact
from edgevision.bundle import BundleWriter, Lineage, Verdict
from edgevision.preprocessing import Preprocessing
from edgevision.types import TensorSpec

LABELS = ("red", "green", "blue")


def _network(path: Path, *, batch: int | str, gain: float, product: str = "MatMul") -> Path:
    """Says which colour channel has the largest mean: predictions are known without training."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("GlobalAveragePool", ["input"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
    ]
    if product != "MatMul":
        nodes[-1].op_type, nodes[-1].domain = product, "com.microsoft"
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 3])],
        [numpy_helper.from_array(np.eye(3, dtype=np.float32) * gain, "weight")],
    )
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    onnx.save(model, path)
    return path


def _make(
    folder: Path,
    *,
    scheme: str | None = None,
    batch: int | str = "batch",
    verdict: Verdict | None = None,
    candidate_scheme: str | None = None,
    golden: bool = True,
    gain: float = 8.0,
    backend: str = "onnxruntime",
    product: str = "MatMul",
) -> Path:
    """A baseline, a shipped graph of ``scheme`` and perhaps a candidate, all real ONNX.

    ``product`` is the operator of the shipped graph's product of matrices.
    """
    source = folder.parent / f"{folder.name}-source"
    source.mkdir()
    preprocessing = Preprocessing(8, 8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    files = {"model.fp32.onnx": {"role": "baseline", "precision": "fp32"}}
    files["model.int8.onnx"] = {"role": "shipped", "precision": "int8", "scheme": scheme}
    if candidate_scheme is not None:
        files["model.other.onnx"] = {
            "role": "candidate",
            "precision": "int8",
            "scheme": candidate_scheme,
        }
    generator = np.random.default_rng(3)
    with BundleWriter(
        folder,
        task="classification",
        labels=LABELS,
        target="cpu",
        inputs=[TensorSpec("input", (batch, 3, 8, 8))],
        outputs=[TensorSpec("logits", (batch, 3))],
        preprocessing=preprocessing,
    ) as writer:
        for name, facts in files.items():
            shipped = facts["role"] == "shipped"
            operator = product if shipped else "MatMul"
            path = _network(source / name, batch=batch, gain=gain, product=operator)
            extra: dict[str, Any] = facts
            writer.add_file(path, name, kind="onnx", backend=backend, **extra)
        if golden:
            images = [generator.integers(0, 256, (9, 11, 3), dtype=np.uint8) for _ in range(3)]
            tensor = writer.add_golden_inputs(images)
            for name in files:
                opener = get_backend("onnxruntime")
                with opener.open(Artifact("onnxruntime", source / name)) as runner:
                    step = batch if isinstance(batch, int) else 1
                    rows = [
                        runner.infer({"input": np.repeat(row[None], step, axis=0)})["logits"][:1]
                        for row in tensor
                    ]
                writer.add_golden_outputs(name, {"logits": np.concatenate(rows)})
        writer.finish(lineage=Lineage(model="colours"), verdict=verdict)
    return folder


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Path]:
    """Writes bundles into the test's folder; see ``_make`` for the options."""

    def call(name: str = "bundle", **options: Any) -> Path:
        return _make(tmp_path / name, **options)

    return call


@pytest.fixture(scope="session")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a real engine of its shipped graph, for SM 86. Not to be changed."""
    from edgevision.pipeline.engine import build_engine

    found = get_backend("tensorrt_rtx").is_available()
    if not found.ok:
        pytest.skip(found.reason)
    folder = _make(tmp_path_factory.mktemp("built") / "bundle", scheme="tensorrt")
    build_engine(folder, "rtx", compute_capabilities=["86"])
    return folder


@pytest.fixture
def engine_bundle(built_once: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(built_once, tmp_path / "bundle"))


@pytest.fixture
def bundle(make_bundle: Callable[..., Path]) -> Path:
    """The plainest one."""
    return make_bundle()


def _colour(number: int, shape: tuple[int, int] = (12, 10)) -> np.ndarray[Any, Any]:
    image = np.full((*shape, 3), 40, np.uint8)
    image[..., number] = 220
    return image


@pytest.fixture
def paint() -> Callable[..., np.ndarray[Any, Any]]:
    """Draws an image of which the channel of that number is the brightest."""
    return _colour


MakeModel = Callable[..., onnx.ModelProto]


@pytest.fixture
def make_model() -> MakeModel:
    """Build a model from ONNX text: ``(signature and body, **initializers)``."""

    def make(text: str, opset: int = 18, **arrays: np.ndarray) -> onnx.ModelProto:
        head = f'<ir_version: 8, opset_import: ["" : {opset}]>\n'
        model = onnx.parser.parse_model(head + "main " + text)
        for name, array in arrays.items():
            model.graph.initializer.append(numpy_helper.from_array(array, name))
        for number, node in enumerate(model.graph.node):
            node.name = f"{node.op_type}_{number}"
        onnx.checker.check_model(model, full_check=True)
        return model

    return make


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)
