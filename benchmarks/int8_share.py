"""The share of Conv, Gemm and MatMul work that TensorRT-RTX does in INT8, from its layer report.

    python benchmarks/int8_share.py GRAPH.onnx [GRAPH.onnx ...] [--output results/int8_share.json]

Any Q/DQ graph will do, whoever made it. Each is built for SM86, SM89 and SM120; no GPU is needed.
Work is counted in MACs with a batch of one. A layer that was asked for in INT8 (both factors come
out of a DequantizeLinear) and runs in anything else is named with what it runs in.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from edgevision.backends import get_backend
from edgevision.backends.base import BuildOptions, ShapeRange
from edgevision.devices import environment
from edgevision.errors import EdgeVisionError
from edgevision.export.graph import Graph, attribute
from edgevision.files import write_json
from edgevision.types import LayerInfo

HERE = Path(__file__).resolve().parent
CAPABILITIES = ("86", "89", "120")
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# Kernels that hold a matrix product without being listed as one, by a part of their names.
_MATRIX_KERNELS = ("mha", "gemm", "Gemm", "Corr", "Deconv", "_Fc", "conv")


@dataclass(frozen=True)
class Work:
    """One matrix layer: its MACs with a batch of one, and whether it was asked for in INT8."""

    operator: str
    macs: int
    asked: bool


def work_of(model: onnx.ModelProto) -> dict[str, Work]:
    """The matrix layers of ``model``, of one input, by node name."""
    graph = Graph(model)
    nodes = [node for node in graph.nodes if node.op_type in LAYERS]
    shapes = _shapes(model, graph, {name for n in nodes for name in (*n.input[:2], n.output[0])})
    found = {}
    for node in nodes:
        makers = [graph.producers.get(name) for name in node.input[:2]]
        asked = all(maker and maker.op_type == "DequantizeLinear" for maker in makers)
        found[node.name] = Work(node.op_type, _macs(node, shapes), asked)
    return found


def _shapes(model: onnx.ModelProto, graph: Graph, names: set[str]) -> dict[str, tuple[int, ...]]:
    """Shapes as they are with one image of zeros: inference cannot know all of them."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    known = {name: tuple(tensor.dims) for name, tensor in graph.initializers.items()}
    inner = sorted(names - known.keys() - set(graph.inputs))
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        probe.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    source = session.get_inputs()[0]
    image = np.zeros([n if isinstance(n, int) else 1 for n in source.shape], np.float32)
    values = session.run(inner, {source.name: image})
    known |= {name: value.shape for name, value in zip(inner, values, strict=True)}
    return {**known, source.name: image.shape}


def _macs(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> int:
    left, right, out = shapes[node.input[0]], shapes[node.input[1]], shapes[node.output[0]]
    if node.op_type == "Conv":
        return prod(out) * prod(right[1:])
    if node.op_type == "ConvTranspose":
        return prod(left) * prod(right[1:])
    if node.op_type == "Gemm":
        return prod(out) * left[0 if attribute(node, "transA", 0) else 1]
    return prod(out) * left[-1]


def used_precisions(work: dict[str, Work], layers: Sequence[LayerInfo]) -> dict[str, str]:
    """Node → precision that its product is computed in, "unlisted" where no layer claims it."""
    used = {}
    for name in work:
        claims = [layer for layer in layers if name in layer.nodes]
        # The kernel that quantizes a layer's input names the layer too; the product counts.
        products = [layer for layer in claims if layer.operator in LAYERS] or [
            layer for layer in claims if any(part in layer.name for part in _MATRIX_KERNELS)
        ]
        chosen = (products or claims)[:1]
        used[name] = chosen[0].precision if chosen else "unlisted"
    return used


def int8_share(graph: Path, capability: str) -> dict[str, Any]:
    """What TensorRT-RTX makes of ``graph`` for one compute capability.

    Raises:
        EdgeVisionError: it cannot be built.
    """
    work = work_of(onnx.load(graph))
    options = BuildOptions(batch=ShapeRange(1, 1, 1), compute_capabilities=(capability,))
    with tempfile.TemporaryDirectory() as folder:
        artifact = get_backend("tensorrt_rtx").build(graph, Path(folder) / "e.engine", options)
    used = used_precisions(work, artifact.layers)
    total = sum(item.macs for item in work.values())
    asked = sum(item.macs for item in work.values() if item.asked)
    got = sum(item.macs for name, item in work.items() if used[name] == "int8")
    kept = sum(item.macs for name, item in work.items() if item.asked and used[name] == "int8")
    return {
        "macs": total,
        "int8_share": got / total if total else 0.0,
        "asked_share": asked / total if total else 0.0,
        "honoured_share": kept / asked if asked else 1.0,
        "asked_and_not_used": {
            name: {"operator": item.operator, "used": used[name], "macs": item.macs}
            for name, item in work.items()
            if item.asked and used[name] != "int8"
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("graphs", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "int8_share.json")
    arguments = parser.parse_args()
    report: dict[str, Any] = {"environment": environment(), "graphs": {}}
    for graph in arguments.graphs:
        entry: dict[str, Any] = {}
        for capability in CAPABILITIES:
            try:
                entry[f"SM{capability}"] = int8_share(graph, capability)
            except EdgeVisionError as error:
                entry[f"SM{capability}"] = {"refused": error.message}
        report["graphs"][graph.stem] = entry
        shares = {name: found.get("int8_share", "refused") for name, found in entry.items()}
        print(graph.stem, shares, flush=True)
    write_json(arguments.output, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
