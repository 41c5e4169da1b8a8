"""The fake-quantized module and the emitted graph on ONNX Runtime are one network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from edgevision.errors import ModelError
from edgevision.export import save_onnx
from edgevision.quantization import CalibrationTable, calibrate, emit, get_scheme
from edgevision.quantization.quantized_torch import QuantizedTorchGraph, with_weight_bits

MakeModel = Callable[..., onnx.ModelProto]

# Residual Add, depthwise convolution, Clip, squeeze-and-excite, pooling and a linear head.
NETWORK = (
    "(float[n,3,12,12] x) => (float[n,6] y) "
    "{ a = Conv <pads=[1,1,1,1]> (x, w1, b1)  r = Relu (a)"
    "  d = Conv <pads=[1,1,1,1], group=8> (r, w2, b2)  c = Clip (d, zero, six)"
    "  g = GlobalAveragePool (c)  e = Conv (g, w3, b3)  s = Sigmoid (e)  m = Mul (c, s)"
    "  h = Conv (m, w4, b4)  i = Add (h, r)  j = Relu (i)"
    "  p = GlobalAveragePool (j)  f = Flatten (p)  y = Gemm <transB=1> (f, w5, b5) }"
)


# The operators that x86 schemes write out into several on integers.
HARD = NETWORK.replace("Relu", "HardSwish").replace("Sigmoid", "HardSigmoid")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def network(
    make_model: MakeModel,
    random: np.random.Generator,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Path:
    def draw(*shape: int) -> np.ndarray:
        size = np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.2
        return (random.normal(size=shape) * size).astype(np.float32)

    model = make_model(
        getattr(request, "param", NETWORK),
        w1=draw(8, 3, 3, 3), b1=draw(8), w2=draw(8, 1, 3, 3) * 2, b2=draw(8) + 1,
        w3=draw(8, 8, 1, 1), b3=draw(8), w4=draw(8, 8, 1, 1), b4=draw(8),
        w5=draw(6, 8), b5=draw(6), zero=np.float32(0), six=np.float32(6),
    )  # fmt: skip
    save_onnx(model, tmp_path / "float.onnx")
    return tmp_path / "float.onnx"


@pytest.fixture
def images(random: np.random.Generator) -> np.ndarray:
    return (random.normal(size=(400, 3, 12, 12)) * random.uniform(0.3, 2, (400, 3, 1, 1))).astype(
        np.float32
    )


def on_runtime(path: Path, images: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": images})[0]


def trained(graph: QuantizedTorchGraph, images: np.ndarray) -> QuantizedTorchGraph:
    """A few large steps towards nothing in particular: every parameter moves."""
    torch.manual_seed(0)
    batch, wanted = torch.from_numpy(images[:32]), torch.randn(32, 6)
    optimizer = torch.optim.Adam(graph.parameters(), lr=5e-3)
    for _ in range(8):
        loss = (graph(batch) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return graph.eval()


def check_same(graph: QuantizedTorchGraph, path: Path, images: np.ndarray) -> None:
    """Top-1 equal, and no logit further off than a few of the last rounding's steps.

    Both round the same numbers, but the integer kernels sum exactly where floats do not: a value
    next to the middle between two integers goes the other way, by one step, and on.
    """
    with torch.no_grad():
        made = graph(torch.from_numpy(images)).numpy()
    there = on_runtime(path, images)
    difference = np.abs(made - there)
    steps = [float(q.step().detach()) for q in graph.activation_quant]
    assert difference.max() <= 4 * max(steps)
    assert np.median(difference) <= 1e-5
    margin = np.sort(made, 1)[:, -1] - np.sort(made, 1)[:, -2]
    same = made.argmax(1) == there.argmax(1)
    # Where the best two are on the same integer, either may come first.
    assert same[margin > difference.max()].all()
    assert same.mean() >= 0.99


@pytest.mark.parametrize("network", [NETWORK, HARD], ids=["relu", "hard"], indirect=True)
@pytest.mark.parametrize("scheme", ["x86-vnni", "tensorrt"])
@pytest.mark.parametrize("bits", [8, 4])
def test_emitted_graph_gives_what_was_learned(
    network: Path, images: np.ndarray, scheme: str, bits: int, tmp_path: Path
) -> None:
    table = calibrate(network, [images[:64]], threads=1)
    chosen = with_weight_bits(get_scheme(scheme), bits)
    graph = QuantizedTorchGraph(onnx.load(network), table, chosen)
    before = {name: value.clone() for name, value in graph.state_dict().items()}
    trained(graph, images)
    moved = [name for name, value in graph.state_dict().items() if not value.equal(before[name])]
    assert {name.partition(".")[0] for name in moved} == {
        "trained",
        "activation_quant",
        "weight_quant",
    }
    model, learned = graph.learned()
    save_onnx(model, tmp_path / "learned.onnx")
    learned.save(tmp_path / "table.json")
    learned = CalibrationTable.load(tmp_path / "table.json")
    emit(tmp_path / "learned.onnx", learned, scheme, tmp_path / "quantized.onnx")
    check_same(graph, tmp_path / "quantized.onnx", images)
    quantized = onnx.load(tmp_path / "quantized.onnx")
    weights = [onnx.numpy_helper.to_array(t) for t in quantized.graph.initializer]
    largest = max(np.abs(w.astype(int)).max() for w in weights if w.dtype == np.int8 and w.size > 1)
    assert largest == (127 if bits == 8 else 7)


def test_before_learning_it_is_what_calibration_gives(
    network: Path, images: np.ndarray, tmp_path: Path
) -> None:
    table = calibrate(network, [images[:64]], threads=1)
    emit(network, table, "x86-vnni", tmp_path / "ptq.onnx")
    graph = QuantizedTorchGraph(onnx.load(network), table, get_scheme("x86-vnni"))
    check_same(graph, tmp_path / "ptq.onnx", images)
    model, learned = graph.learned()
    save_onnx(model, tmp_path / "learned.onnx")
    emit(tmp_path / "learned.onnx", learned, "x86-vnni", tmp_path / "again.onnx")
    first, second = (
        {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
        for path in (tmp_path / "ptq.onnx", tmp_path / "again.onnx")
    )
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert np.array_equal(value, second[name]), name


def test_clip_still_vanishes_after_learning(
    network: Path, images: np.ndarray, tmp_path: Path
) -> None:
    table = calibrate(network, [images[:64]], threads=1)
    graph = QuantizedTorchGraph(onnx.load(network), table, get_scheme("x86-vnni"))
    with torch.no_grad():
        for quantizer in graph.activation_quant:
            quantizer.change += 0.2  # every range grows sevenfold
    model, learned = graph.learned()
    assert learned.tensors["c"].high <= 6 * (1 + 1e-6)
    save_onnx(model, tmp_path / "learned.onnx")
    emit(tmp_path / "learned.onnx", learned, "x86-vnni", tmp_path / "quantized.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(tmp_path / "quantized.onnx", options)
    operators = {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
    assert not operators & {"Clip", "Relu", "Conv", "Gemm", "Add"}


def test_layers_kept_in_float_and_corrections(network: Path, images: np.ndarray) -> None:
    table = calibrate(network, [images[:64]], threads=1)
    kept = QuantizedTorchGraph(
        onnx.load(network), table, get_scheme("tensorrt"), {"Conv_0": "too dear"}
    )
    assert "w1" not in kept.weight_of
    assert "w2" in kept.weight_of
    added = np.full(8, 0.5, np.float32)
    corrected = replace(table, corrections={"tensorrt": {"h": added}})
    graph = QuantizedTorchGraph(onnx.load(network), corrected, get_scheme("tensorrt"))
    plain = QuantizedTorchGraph(onnx.load(network), table, get_scheme("tensorrt"))
    difference = graph.parameter("b4") - plain.parameter("b4")
    assert torch.allclose(difference, torch.full((8,), 0.5))
    assert graph.learned()[1].corrections == {}


def test_table_without_a_tensor_is_refused(network: Path, images: np.ndarray) -> None:
    table = replace(calibrate(network, [images[:8]], threads=1), tensors={})
    with pytest.raises(ModelError, match="no entry for tensor"):
        QuantizedTorchGraph(onnx.load(network), table, get_scheme("tensorrt"))
