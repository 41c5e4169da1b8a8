"""TensorRT-RTX engines of four networks: size, time to build, and what each layer runs in.

    python benchmarks/rtx_engines.py [--networks unet ...]

ResNet-18, MobileNetV3-small, a tiny ViT and a U-Net with random weights, in FP32, FP16 and INT8
(with the rest in FP16), each for SM86, SM89, SM120 and for all three in one engine, batch 1 to 8.
No GPU is needed, and none was there: nothing was run. Shares are of the MACs of Conv,
ConvTranspose, Gemm and MatMul at a batch of one, by the precision in the builder's layer report;
`layers` counts the report's lines by operator and precision. `cpu_seconds` is the processor time of
the whole build, `build_seconds` the builder's alone by the clock: the one is steadier under load.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import timm
import torch
from int8_share import Work, used_precisions, work_of
from networks import UNet

from edgevision.backends import get_backend
from edgevision.backends.base import BuildOptions, ShapeRange
from edgevision.devices import environment
from edgevision.export import export_onnx
from edgevision.files import write_json
from edgevision.quantization import calibrate, emit
from edgevision.quantization.half import to_half
from edgevision.types import TensorSpec

HERE = Path(__file__).resolve().parent
SHAPE = (3, 224, 224)
BATCH = ShapeRange(1, 1, 8)
TARGETS = (("86",), ("89",), ("120",), ("86", "89", "120"))
NETWORKS = ("resnet18", "mobilenetv3_small_100", "vit_tiny_patch16_224", "unet")


def make_graphs(
    name: str, folder: Path, images: npt.NDArray[np.float32]
) -> tuple[dict[str, Path], dict[str, dict[str, Work]]]:
    """Graphs of the network by precision, and the matrix work of each."""
    torch.manual_seed(0)
    module = UNet(21) if name == "unet" else timm.create_model(name, num_classes=1000)
    graphs = {kind: folder / f"{kind}.onnx" for kind in ("fp32", "fp16", "int8")}
    spec = TensorSpec("image", ("batch", *SHAPE))
    export_onnx(module.eval(), graphs["fp32"], input_spec=spec, output_names=["output"])
    table = calibrate(graphs["fp32"], [images], method="percentile")
    onnx.save(to_half(onnx.load(graphs["fp32"]), table=table), graphs["fp16"])
    plain = folder / "plain.onnx"  # shapes are found by ONNX Runtime, which wants float32
    emit(graphs["fp32"], table, "tensorrt", plain)
    emit(graphs["fp32"], table, "tensorrt", graphs["int8"], half=True)
    works = {kind: work_of(onnx.load(graphs["fp32"])) for kind in ("fp32", "fp16")}
    return graphs, {**works, "int8": work_of(onnx.load(plain))}


def shares(work: dict[str, Work], used: dict[str, str]) -> dict[str, float]:
    """Share of the MACs by the precision that they are done in."""
    total = sum(item.macs for item in work.values())
    done: Counter[str] = Counter()
    for name, precision in used.items():
        done[precision] += work[name].macs
    return {precision: macs / total for precision, macs in sorted(done.items())}


def measure(graph: Path, work: dict[str, Work], capabilities: tuple[str, ...]) -> dict[str, Any]:
    """One engine: what it takes, and what its layers run in."""
    options = BuildOptions(batch=BATCH, compute_capabilities=capabilities)
    engine = graph.with_suffix(".engine")
    start = time.process_time()
    artifact = get_backend("tensorrt_rtx").build(graph, engine, options)
    cpu_seconds = time.process_time() - start
    used = used_precisions(work, artifact.layers)
    counted: Counter[str] = Counter()
    for layer in artifact.layers:
        counted[f"{layer.operator} {layer.precision}"] += 1
    return {
        "engine_bytes": engine.stat().st_size,
        "build_seconds": artifact.meta["build_seconds"],
        "cpu_seconds": round(cpu_seconds, 3),
        "mac_share": shares(work, used),
        "asked_int8_share": sum(item.macs for item in work.values() if item.asked)
        / sum(item.macs for item in work.values()),
        "asked_and_not_int8": {
            name: used[name] for name, item in work.items() if item.asked and used[name] != "int8"
        },
        "layers": dict(sorted(counted.items())),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", nargs="+", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "rtx_engines.json")
    arguments = parser.parse_args()
    images = np.random.default_rng(0).normal(size=(8, *SHAPE)).astype(np.float32)
    result: dict[str, Any] = {
        "claim": "each network builds in each precision for each GPU on a machine without one; "
        "layers asked for in INT8 that run in anything else are named",
        "command": "python benchmarks/rtx_engines.py",
        "environment": environment(),
        "batch": {"min": BATCH.min, "opt": BATCH.opt, "max": BATCH.max},
        "image": list(SHAPE),
        "networks": {},
    }
    for name in arguments.networks:
        rows: dict[str, Any] = {}
        with tempfile.TemporaryDirectory() as folder:
            graphs, works = make_graphs(name, Path(folder), images)
            for kind, graph in graphs.items():
                rows[kind] = {"onnx_bytes": graph.stat().st_size}
                for capabilities in TARGETS:
                    key = "+".join(f"SM{one}" for one in capabilities)
                    rows[kind][key] = row = measure(graph, works[kind], capabilities)
                    told = {one: round(share, 3) for one, share in row["mac_share"].items()}
                    size = row["engine_bytes"] / 1e6
                    print(f"{name} {kind} {key}: {size:.1f} MB, {row['cpu_seconds']:.1f} s, "
                          f"{told}", flush=True)  # fmt: skip
        result["networks"][name] = rows
        write_json(arguments.output, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
