"""Small networks that tell ten kinds of clothing apart, made in a moment.

Filters are random, batch normalization is taken from real images and folded, and the head is
fitted by least squares: quantization costs them what it costs trained ones.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime
from onnx import numpy_helper

from edgevision.data import load_data
from edgevision.export import save_onnx

PLAIN = (
    "a1 = Conv <pads=[1,1,1,1], strides=[2,2]> (x, w1, b1)  r1 = Relu (a1)"
    "  a2 = Conv <pads=[1,1,1,1], strides=[2,2]> (r1, w2, b2)  r2 = Relu (a2)"
    "  a3 = Conv <pads=[1,1,1,1]> (r2, w3, b3)  r3 = Relu (a3)",
    {1: (16, 1, 3, 3), 2: (32, 16, 3, 3), 3: (48, 32, 3, 3)},
)
# Inverted residuals: widen, depthwise, narrow without an activation.
DEPTHWISE = (
    "a1 = Conv <pads=[1,1,1,1], strides=[2,2]> (x, w1, b1)  r1 = Relu (a1)"
    "  a2 = Conv (r1, w2, b2)  r2 = Relu (a2)"
    "  a3 = Conv <pads=[1,1,1,1], strides=[2,2], group=48> (r2, w3, b3)  r3 = Relu (a3)"
    "  a4 = Conv (r3, w4, b4)"
    "  a5 = Conv (a4, w5, b5)  r5 = Relu (a5)"
    "  a6 = Conv <pads=[1,1,1,1], group=64> (r5, w6, b6)  r6 = Relu (a6)",
    {1: (16, 1, 3, 3), 2: (48, 16, 1, 1), 3: (48, 1, 3, 3), 4: (24, 48, 1, 1)}
    | {5: (64, 24, 1, 1), 6: (64, 1, 3, 3)},
)


def images(split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(count, 1, 28, 28) float32 in -1 to 1, and their labels."""
    data = getattr(load_data("fashion-mnist-mini"), split)
    pixels = np.stack([data.image(i)[..., 0] for i in range(count)]).astype(np.float32)
    return pixels[:, None] / 127.5 - 1, np.array([data.target(i) for i in range(count)])


def make_network(path: Path, kind: tuple[str, dict], *, spread: float = 0.0) -> None:
    """Write it to ``path``; ``spread`` makes channels differ in size, in powers of e."""
    random = np.random.default_rng(0)
    body, shapes = kind
    x, y = images("train", 600)
    arrays: dict[str, np.ndarray] = {}
    for number, shape in shapes.items():
        arrays[f"w{number}"] = random.normal(size=shape).astype(np.float32)
        arrays[f"b{number}"] = np.zeros(shape[0], np.float32)
    for number, shape in shapes.items():
        values = run(_model(body, arrays, f"a{number}"), x[:200])
        gain = np.exp(spread * random.normal(size=shape[0])) / (values.std((0, 2, 3)) + 1e-3)
        arrays[f"w{number}"] *= gain.reshape(-1, 1, 1, 1).astype(np.float32)
        offset = random.normal(size=shape[0]) * 0.3 * gain * values.std((0, 2, 3))
        arrays[f"b{number}"] = (offset - gain * values.mean((0, 2, 3))).astype(np.float32)
    last = max(shapes)
    body += f"  g = GlobalAveragePool (r{last})  f = Flatten (g)"
    features = np.c_[run(_model(body, arrays, "f"), x), np.ones(len(x))].astype(np.float64)
    size = np.abs(features).max(0)
    wanted = np.eye(10)[y] * 10 - 1
    normal = (features / size).T @ (features / size) + 1e-3 * np.eye(len(size))
    head = np.linalg.solve(normal, (features / size).T @ wanted) / size[:, None]
    arrays |= {"wh": head[:-1].astype(np.float32), "bh": head[-1].astype(np.float32)}
    save_onnx(_model(f"{body}  y = Gemm (f, wh, bh)", arrays, "y"), path)


def run(model: onnx.ModelProto | Path, x: np.ndarray) -> np.ndarray:
    """Its output for all of ``x``."""
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return np.asarray(onnxruntime.InferenceSession(source, options).run(None, {"x": x})[0])


def _model(body: str, arrays: dict[str, np.ndarray], output: str) -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]>\n'
        f"main (float[n,1,28,28] x) => (float {output}) {{ {body} }}"
    )
    del model.graph.output[:]
    model.graph.output.append(onnx.ValueInfoProto(name=output))
    for name, array in arrays.items():
        if any(name in node.input for node in model.graph.node):
            model.graph.initializer.append(numpy_helper.from_array(array, name))
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{number}"
    inferred = onnx.shape_inference.infer_shapes(model)
    model.graph.output[0].CopyFrom(inferred.graph.output[0])
    return model
