"""Speed of INT8 on a CPU, eight networks: ours, FP32, ONNX Runtime's own tool and NNCF.

    python benchmarks/int8_speed.py --nncf-python nncf-env/bin/python [--networks resnet18 …]

Random weights at 224 by 224, batch 1 and 8, on ONNX Runtime and, where `openvino` imports, on
OpenVINO: all graphs of a network, batch and runtime in one interleaved run, as times FP32 on that
runtime. OpenVINO computes a float file in bfloat16 where the processor can: FP32 is that file told
to stay in float32, `float_as_is` the same file as OpenVINO runs it by itself. What is float in an
INT8 graph it computes as it likes, as it will for a user, so both ratios are needed.
The runtimes take turns, since the threads of one would disturb the other. Ours is what
`compress` would ship: INT8 throughout, or the division into INT8 and float that was the fastest
when measured at batch 1. Networks done are kept in the result, so an interrupted run carries on;
--again starts over. Writes results/int8_speed.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import timm
import torch
from peers.static import peer_graphs, save_program

from edgevision.backends import get_backend
from edgevision.backends.base import Artifact
from edgevision.benchmark import BenchConfig, compare
from edgevision.devices import environment
from edgevision.export import export_onnx
from edgevision.files import write_json
from edgevision.pipeline.divide import find_division
from edgevision.quantization import calibrate, emit
from edgevision.types import TensorSpec

HERE = Path(__file__).resolve().parent
SHAPE = (3, 224, 224)
NETWORKS = (
    "resnet18",
    "resnet50",
    "mobilenetv2_100",
    "mobilenetv3_large_100",
    "efficientnet_lite0",
    "efficientnet_b0",
    "convnext_atto",
    "deit_tiny_patch16_224",
)
SCHEME = "x86-vnni"
PROTOCOL = 2  # rows of another one are measured anew
PEERS = ("quantize_static", "nncf")
Run = Callable[[], object]


def export_random(
    name: str, folder: Path, *, program: bool = False
) -> tuple[Path, npt.NDArray[np.float32]]:
    """The timm model ``name`` with random weights as ONNX, and 16 images of noise.

    With ``program`` beside it ``fp32.pt2``, the exported torch program of a batch of one.
    """
    torch.manual_seed(0)
    module = timm.create_model(name, num_classes=1000).eval()
    images = np.random.default_rng(0).normal(size=(16, *SHAPE)).astype(np.float32)
    fp32 = folder / "fp32.onnx"
    spec = TensorSpec("image", ("batch", *SHAPE))
    export_onnx(module, fp32, input_spec=spec, output_names=["logits"])
    if program:
        save_program(module, SHAPE, fp32.with_suffix(".pt2"))
    return fp32, images


def make_graphs(
    name: str, folder: Path, threads: int, nncf_python: str | None
) -> tuple[dict[str, dict[str, Path]], list[dict[str, Any]], dict[str, str]]:
    """Runtime → graph files by name, what was tried for ours, and versions of the peers."""
    fp32, images = export_random(name, folder)
    table = calibrate(fp32, [images], method="percentile")
    ours = {"onnxruntime": folder / "ours.onnx", "openvino": folder / "openvino.onnx"}
    emit(fp32, table, SCHEME, ours["onnxruntime"])
    emit(fp32, table, "openvino", ours["openvino"])
    backend = get_backend("onnxruntime")
    feeds = {"image": images[:1]}
    found = find_division(
        fp32, ours["onnxruntime"], table, SCHEME, backend, feeds, folder, threads=threads
    )
    if found.path is not None:
        ours["onnxruntime"] = found.path
    elif found.tried:
        best = min(found.tried, key=lambda row: row["latency_p50_ms"])
        if best["name"] == "float":
            ours["onnxruntime"] = fp32  # INT8 pays nowhere: compress says so with exit code 5
    peers, versions = peer_graphs(fp32, images, folder, nncf_python)
    graphs = {name: {"fp32": fp32, "ours": path, **peers} for name, path in ours.items()}
    return graphs, list(found.tried), versions


def openvino_run(
    path: Path, images: npt.NDArray[np.float32], threads: int, precision: str | None = None
) -> Run:
    """A call of OpenVINO on ``path``, compiled for this shape and lowest latency.

    ``precision`` is that of what is float in it, None for OpenVINO's own choice.
    """
    import openvino

    core = openvino.Core()
    model = core.read_model(str(path))
    model.reshape(list(images.shape))
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    if precision is not None:
        options["INFERENCE_PRECISION_HINT"] = precision
    request = core.compile_model(model, "CPU", options).create_infer_request()
    return lambda: request.infer({0: images})


def measure(
    graphs: dict[str, Path], runtime: str, batch: int, threads: int, seconds: float
) -> dict[str, Any]:
    """Every graph on one runtime, interleaved; times and ratios to that runtime's FP32.

    A peer's graph that the runtime cannot run is left out, with the error under ``failed``.
    """
    images = np.random.default_rng(1).normal(size=(batch, *SHAPE)).astype(np.float32)
    backend = get_backend("onnxruntime")
    failed = {}
    with ExitStack() as stack:
        runs: dict[str, Run] = {}
        for name, path in graphs.items():
            try:
                if runtime == "openvino":
                    exact = "f32" if name == "fp32" else None
                    runs[name] = openvino_run(path, images, threads, exact)
                else:
                    artifact = Artifact("onnxruntime", path)
                    runner = stack.enter_context(backend.open(artifact, threads=threads))
                    runs[name] = partial(runner.infer, {"image": images})
                runs[name]()
            except Exception as error:
                if name not in PEERS:
                    raise
                failed[name] = str(error)[:300]
                runs.pop(name, None)
        if runtime == "openvino":
            runs["float_as_is"] = openvino_run(graphs["fp32"], images, threads)
        config = BenchConfig(seconds=seconds, min_rounds=20, images_per_call=batch)
        comparison = compare(runs, baseline="fp32", config=config)
    rows: dict[str, Any] = {"failed": failed} if failed else {}
    for name, stats in comparison.runs.items():
        rows[name] = {"p50_ms": stats.latency_p50_ms, "min_ms": stats.latency_min_ms}
        if name in comparison.ratios:
            ratio = comparison.ratios[name]
            rows[name] |= {"times_fp32": ratio.value, "low": ratio.low, "high": ratio.high}
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nncf-python", help="Python of an environment with NNCF")
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=40, help="of each interleaved run")
    parser.add_argument("--again", action="store_true", help="measure every network anew")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "int8_speed.json")
    arguments = parser.parse_args()
    runtimes = ["onnxruntime", *(["openvino"] if find_spec("openvino") else [])]
    result: dict[str, Any] = {"networks": {}}
    if arguments.output.exists() and not arguments.again:
        result = json.loads(arguments.output.read_text())
    result |= {
        "claim": "never slower than FP32, nor than the float file as it is; no slower than the "
        "best peer (1.03); ResNet-50 at least 3 times FP32, MobileNetV3 and EfficientNet-B0 at "
        "least 1.2 times",
        "command": "python benchmarks/int8_speed.py --nncf-python PYTHON",
        "threads": arguments.threads,
    }
    for name in arguments.networks:
        if result["networks"].get(name, {}).get("protocol") == PROTOCOL:
            continue
        with tempfile.TemporaryDirectory() as temporary:
            graphs, tried, versions = make_graphs(
                name, Path(temporary), arguments.threads, arguments.nncf_python
            )
            row: dict[str, Any] = {"protocol": PROTOCOL, "tried": tried, "peers": versions}
            for runtime in runtimes:
                for batch in arguments.batches:
                    row[f"{runtime}, batch {batch}"] = measure(
                        graphs[runtime], runtime, batch, arguments.threads, arguments.seconds
                    )
        row["environment"] = environment()
        result["networks"][name] = row
        write_json(arguments.output, result)
        show(name, row)
    return 0


def show(name: str, row: dict[str, Any]) -> None:
    """One line a graph, times FP32 by median and by minimum."""
    for key in [key for key in row if "batch" in key]:
        base = row[key]["fp32"]
        for graph, times in row[key].items():
            if graph == "failed":
                print(f"{name:22s} {key} cannot run: {', '.join(times)}")
                continue
            by_median = base["p50_ms"] / times["p50_ms"]
            by_minimum = base["min_ms"] / times["min_ms"]
            print(f"{name:22s} {key} {graph:16s} {by_median:5.2f} ({by_minimum:.2f})")


if __name__ == "__main__":
    sys.exit(main())
