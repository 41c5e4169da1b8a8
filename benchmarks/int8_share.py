"""The share of Conv, Gemm and MatMul work that TensorRT-RTX does in INT8, from its layer report.

    python benchmarks/int8_share.py [--nncf-python nncf-env/bin/python] [--modelopt-python …]
        [--embedl-python …] [--networks resnet18 ...]

Ours for `tensorrt`, and of the same network and images the graphs of `quantize_static` in the form
that TensorRT takes and, with their environments (see peers/), of NNCF, ModelOpt and embedl-deploy.
Each is built for SM86, SM89 and SM120; no GPU is needed.
Networks done with all these tools are kept in the result, so an interrupted run carries on; --again
starts over.
Work is counted in MACs with a batch of one. A layer that was asked for in INT8 (both factors come
out of a DequantizeLinear) and runs in anything else is named with what it runs in.
"""

from __future__ import annotations

import argparse
import json
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
from int8_speed import NETWORKS, export_random
from peers.static import add_peer_arguments, outside_graph, peer_pythons, static_graph

from edgevision.backends import get_backend
from edgevision.backends.base import BuildOptions, ShapeRange
from edgevision.devices import environment
from edgevision.errors import EdgeVisionError
from edgevision.export.graph import Graph, attribute
from edgevision.files import write_json
from edgevision.quantization import calibrate, emit
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


def make_graphs(
    name: str, folder: Path, pythons: dict[str, str]
) -> tuple[dict[str, Path], dict[str, str]]:
    """Q/DQ graphs of the timm model ``name`` by who made them, and the error of those missing."""
    fp32, images = export_random(name, folder, program="embedl" in pythons)
    graphs = {"ours": folder / "ours.onnx", "quantize_static": folder / "static.onnx"}
    emit(fp32, calibrate(fp32, [images], method="percentile"), "tensorrt", graphs["ours"])
    errors = {}
    if error := static_graph(fp32, images, graphs["quantize_static"], form="tensorrt"):
        errors["quantize_static"] = error
    for peer, python in pythons.items():
        graphs[peer] = folder / f"{peer}.onnx"
        source = fp32.with_suffix(".pt2") if peer == "embedl" else fp32
        _, failed = outside_graph(peer, source, images, graphs[peer], python)
        if failed:
            errors[peer] = failed
    return {maker: path for maker, path in graphs.items() if maker not in errors}, errors


def measure(name: str, pythons: dict[str, str]) -> dict[str, Any]:
    """For every maker and compute capability what became INT8, or why it was refused."""
    with tempfile.TemporaryDirectory() as folder:
        graphs, errors = make_graphs(name, Path(folder), pythons)
        entry: dict[str, Any] = {maker: {"refused": error} for maker, error in errors.items()}
        for maker, graph in graphs.items():
            entry[maker] = {}
            for capability in CAPABILITIES:
                try:
                    entry[maker][f"SM{capability}"] = int8_share(graph, capability)
                except EdgeVisionError as error:
                    entry[maker][f"SM{capability}"] = {"refused": error.message}
    return entry


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_peer_arguments(parser)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--again", action="store_true", help="build every network anew")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "int8_share.json")
    arguments = parser.parse_args()
    pythons = peer_pythons(arguments)
    result: dict[str, Any] = {"networks": {}}
    if arguments.output.exists() and not arguments.again:
        result = json.loads(arguments.output.read_text())
    result |= {
        "claim": "all Conv, Gemm and MatMul work that was asked for in INT8 is done in INT8",
        "command": "python benchmarks/int8_share.py --nncf-python PYTHON --modelopt-python PYTHON "
        "--embedl-python PYTHON",
        "environment": environment(),
    }
    for name in arguments.networks:
        if {"ours", "quantize_static", *pythons} <= result["networks"].get(name, {}).keys():
            continue
        result["networks"][name] = entry = measure(name, pythons)
        write_json(arguments.output, result)
        for maker, row in entry.items():
            shares = {
                capability: (round(found["int8_share"], 4), round(found["honoured_share"], 4))
                if "macs" in found
                else found["refused"][:80]
                for capability, found in row.items()
                if isinstance(found, dict)
            }
            print(name, maker, shares or row, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
