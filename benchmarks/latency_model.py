"""How well times of pruned networks are predicted: thirty random ones each, FP32 and INT8.

    python benchmarks/latency_model.py [--networks fastnet …]

Each network's time at random widths is measured on ONNX Runtime as `compress --prune-speedup` does
it, on this machine; the model is fitted to 64 of them and predicts 30 others, which are measured in
the same run. Weights are random: they make no difference to the time. Beside it the prediction that
users make today, time in proportion to MACs. Networks done are kept in the result, so an
interrupted run carries on. Writes results/latency_model.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgevision.backends import get_backend
from edgevision.devices import environment
from edgevision.export import export_onnx, load_onnx
from edgevision.files import write_json
from edgevision.latency import (
    WidthShapes,
    fit_latency,
    measure_widths,
    quantize_narrowed,
    relative_errors,
    sample_widths,
)
from edgevision.models import create
from edgevision.pruning import PruneConfig
from edgevision.pruning.allowed import allowed_widths
from edgevision.quantization import calibrate
from edgevision.tasks import get_task
from edgevision.types import TensorSpec

RESULT = Path(__file__).parent / "results" / "latency_model.json"
NETWORKS = {
    "fastnet": 32,
    "cifar-resnet20": 32,
    "timm:mobilenetv2_100": 96,
    "timm:mobilenetv3_small_100": 96,
    "timm:resnet18": 96,
}
FITTED, TESTED = 64, 30
SCHEME = "x86-vnni"


def predicted(name: str, size: int, threads: int, seconds: float) -> dict[str, Any]:
    """Errors of the model and of MACs on networks that neither has seen, by precision."""
    torch.manual_seed(0)
    shape = (3, size, size)
    module = create(name, num_classes=10, in_channels=3, image_size=shape[1:]).eval()
    images = np.random.default_rng(0).normal(size=(8, *shape)).astype(np.float32)
    row: dict[str, Any] = {"size": size, "environment": environment()}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        path = folder / "float.onnx"
        spec = TensorSpec("image", ("batch", *shape))
        export_onnx(module, path, input_spec=spec, output_names=["logits"])
        found = allowed_widths(
            module,
            example_shape=(1, *shape),
            config=PruneConfig(speedup=2.0),
            ignored=get_task("classification").head_layers(module, 10),
            round_to=8,
        )
        cost, allowed = found.cost, found.allowed
        shapes = WidthShapes(load_onnx(path), cost, found.bounds)
        widths = list(allowed.values())
        rows = np.vstack(
            [sample_widths(widths, FITTED, 1), sample_widths(widths, TESTED + 1, 2)[1:]]
        )
        macs = np.array([cost.macs(dict(zip(allowed, r, strict=True))) for r in rows.tolist()])
        table = calibrate(path, [images])
        for precision in ("fp32", "int8"):
            times = measure_widths(
                shapes,
                rows,
                get_backend("onnxruntime"),
                {"image": images[:1]},
                folder,
                prepare=partial(quantize_narrowed, table, SCHEME) if precision == "int8" else None,
                threads=threads,
                seconds=seconds,
            )
            model = fit_latency(shapes, rows[:FITTED], times[:FITTED])
            errors = relative_errors(model, rows[FITTED:], times[FITTED:].tolist())
            by_macs = np.abs(times[0] * macs[FITTED:] / macs[0] / times[FITTED:] - 1)
            row[precision] = {
                "mean_error": float(errors.mean()),
                "worst_error": float(errors.max()),
                "told_beforehand": model.error,
                "tile": model.tile,
                "mean_error_by_macs": float(by_macs.mean()),
                "milliseconds": [float(times[FITTED:].min()), float(times[FITTED:].max())],
                "whole_ms": float(times[0]),
            }
            print(name, precision, json.dumps(row[precision]), flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60, help="of each network and precision")
    parser.add_argument("--again", action="store_true", help="measure every network anew")
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    result: dict[str, Any] = {"networks": {}}
    if arguments.result.exists() and not arguments.again:
        result = json.loads(arguments.result.read_text())
    result |= {
        "claim": "the mean error over 30 random pruned networks is below 8 %, FP32 and INT8",
        "command": "python benchmarks/latency_model.py",
        "threads": arguments.threads,
        "seconds": arguments.seconds,
        "networks_fitted": FITTED,
    }
    for name in arguments.networks:
        if name not in result["networks"]:
            found = predicted(name, NETWORKS[name], arguments.threads, arguments.seconds)
            result["networks"][name] = found
            write_json(arguments.result, result)


if __name__ == "__main__":
    main()
