"""ResNet-18 at 224, random weights, unpruned: is our INT8 graph as fast as any other?

    python benchmarks/quantize_resnet18.py [--nncf-python nncf-env/bin/python]

All graphs are made from the same ONNX file and the same calibration images (seeded noise: only
speed is measured here) and run on ONNX Runtime's CPU provider in one interleaved run in random
order. The `tensorrt` graph is built with TensorRT-RTX for SM86, SM89 and SM120, and its layer
report read. Without --nncf-python (see peers/nncf_graph.py) NNCF's graph is left out.
Writes results/quantize_resnet18.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
import torchvision
from peers.static import peer_graphs

from edgevision.backends import get_backend
from edgevision.backends.base import BuildOptions
from edgevision.benchmark import BenchConfig, compare
from edgevision.export import check_against_torch, export_onnx
from edgevision.files import write_json
from edgevision.quantization import calibrate, emit
from edgevision.types import TensorSpec

HERE = Path(__file__).resolve().parent
SHAPE = (3, 224, 224)


def make_graphs(
    folder: Path, images: npt.NDArray[np.float32], nncf_python: str | None
) -> tuple[dict[str, Path], dict[str, str]]:
    """Every graph as a file, and versions of the peers."""
    torch.manual_seed(0)
    module = torchvision.models.resnet18().eval()
    fp32 = folder / "fp32.onnx"
    spec = TensorSpec("image", ("batch", *SHAPE))
    export_onnx(module, fp32, input_spec=spec, output_names=["logits"])
    check_against_torch(fp32, module, images[:2])
    graphs = {"fp32": fp32}
    table = calibrate(fp32, [images], method="percentile")
    for scheme in ("x86-vnni", "tensorrt"):
        graphs[f"ours {scheme}"] = folder / f"{scheme}.onnx"
        emit(fp32, table, scheme, graphs[f"ours {scheme}"])

    peers, versions = peer_graphs(fp32, images, folder, nncf_python)
    return {**graphs, **peers}, versions


def open_run(
    path: Path, threads: int, image: npt.NDArray[np.float32]
) -> tuple[Callable[[], Any], dict[str, int]]:
    """A call of ONNX Runtime on ``path``, and the operators it made of the graph."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # As the runtime opens sessions: idle workers of one would spin in the others' time.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    optimized = path.with_suffix(".optimized.onnx")
    options.optimized_model_filepath = str(optimized)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    operators = Counter(node.op_type for node in onnx.load(optimized).graph.node)
    return lambda: session.run(None, {"image": image}), dict(operators)


def tensorrt_report(graph: Path, folder: Path) -> dict[str, Any]:
    """Precision of every layer that TensorRT-RTX builds, for each compute capability."""
    backend = get_backend("tensorrt_rtx")
    available = backend.is_available()
    if not available.ok:
        return {"skipped": available.reason}
    nodes = Counter(node.op_type for node in onnx.load(graph).graph.node)
    report: dict[str, Any] = {"asked": {name: nodes[name] for name in ("Conv", "Gemm")}}
    for capability in ("86", "89", "120"):
        options = BuildOptions(compute_capabilities=(capability,))
        artifact = backend.build(graph, folder / f"sm{capability}.engine", options)
        layers = Counter(f"{layer.operator} {layer.precision}" for layer in artifact.layers)
        report[f"SM{capability}"] = dict(sorted(layers.items()))
        report[f"SM{capability} all Conv and Gemm in INT8"] = all(
            layers[f"{name} int8"] == nodes[name] for name in ("Conv", "Gemm")
        ) and not any(layers[f"{name} fp32"] for name in ("Conv", "Gemm"))
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nncf-python", help="Python of an environment with NNCF")
    parser.add_argument("--rounds", type=int, default=100, help="rounds of the interleaved run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "quantize_resnet18.json")
    arguments = parser.parse_args()
    images = np.random.default_rng(0).normal(size=(16, *SHAPE)).astype(np.float32)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        graphs, versions = make_graphs(folder, images, arguments.nncf_python)
        runs, operators = {}, {}
        for name, path in graphs.items():
            runs[name], operators[name] = open_run(path, arguments.threads, images[:1])
        config = BenchConfig(seconds=240, min_rounds=arguments.rounds, max_rounds=arguments.rounds)
        comparison = compare(runs, baseline="fp32", config=config)
        rtx = tensorrt_report(graphs["ours tensorrt"], folder)
    result = {
        "claim": "ResNet-18 at 224: x86-vnni at least 2.0 times FP32, at most 1.05 times the time "
        "of NNCF's graph; tensorrt with every Conv and Gemm in INT8",
        "command": "python benchmarks/quantize_resnet18.py --nncf-python PYTHON "
        f"--rounds {arguments.rounds}",
        "threads": arguments.threads,
        "batch": 1,
        "peers": versions,
        "operators_after_onnxruntime": operators,
        "tensorrt_rtx": rtx,
        "comparison": comparison.to_dict(),
    }
    p50 = {name: stats.latency_p50_ms for name, stats in comparison.runs.items()}
    least = {name: stats.latency_min_ms for name, stats in comparison.runs.items()}
    result["summary"] = {
        "ours_over_fp32": p50["fp32"] / p50["ours x86-vnni"],
        "ours_over_fp32_by_minimum": least["fp32"] / least["ours x86-vnni"],
    }
    if "nncf" in p50:
        result["summary"]["ours_time_over_nncf"] = p50["ours x86-vnni"] / p50["nncf"]
        result["summary"]["ours_time_over_nncf_by_minimum"] = least["ours x86-vnni"] / least["nncf"]
    write_json(arguments.output, result)
    for name in p50:
        print(f"{name:18s} p50 {p50[name]:8.2f} ms  min {least[name]:8.2f} ms", end="")
        print(f"  {p50['fp32'] / p50[name]:5.2f}x ({least['fp32'] / least[name]:.2f}x by minimum)")
    print(json.dumps({"summary": result["summary"], "tensorrt_rtx": rtx}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
