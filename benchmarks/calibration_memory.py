"""Peak memory and time of calibration, ResNet-18 at 224: ours stays flat, others grow.

    python benchmarks/calibration_memory.py

Each case is a process of its own that makes its images one by one from a seed, so that no data
set is held in memory; its peak is VmHWM, from the process's start, libraries included. Cases are
stopped at --limit-gb of address space or --limit-seconds and say so. Writes
results/calibration_memory.json after every case and goes on from there when started again.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

HERE = Path(__file__).resolve().parent
SHAPE = (3, 224, 224)
CASES = [
    ("edgevision minmax", 64),
    ("edgevision minmax", 1024),
    ("edgevision percentile", 64),
    ("edgevision percentile", 1024),
    ("onnxruntime minmax", 64),
    ("onnxruntime percentile", 64),
    ("onnxruntime percentile", 128),
    ("onnxruntime minmax", 1024),
]


def images(count: int) -> Iterator[npt.NDArray[np.float32]]:
    """``count`` arrays of (1, 3, 224, 224) float32 noise, the same every time."""
    generator = np.random.default_rng(0)
    for _ in range(count):
        yield generator.standard_normal((1, *SHAPE), np.float32)


def ours(model: Path, method: str, count: int) -> None:
    from edgevision.quantization import calibrate

    calibrate(model, images(count), method=method, threads=2)


def onnxruntime_static(model: Path, method: str, count: int) -> None:
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.feeds = ({"image": image} for image in images(count))

        def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
            return next(self.feeds, None)

    chosen = {"minmax": CalibrationMethod.MinMax, "percentile": CalibrationMethod.Percentile}
    output = model.with_name("quantize_static.onnx")
    quantize_static(str(model), str(output), Reader(), calibrate_method=chosen[method])


def worker(tool: str, method: str, count: int, model: Path) -> None:
    start = time.perf_counter()
    (ours if tool == "edgevision" else onnxruntime_static)(model, method, count)
    seconds = time.perf_counter() - start
    status = Path("/proc/self/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    cpu = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {
                "seconds": round(seconds, 2),
                "cpu_seconds": round(cpu.ru_utime + cpu.ru_stime, 2),
                "peak_mb": round(int(peak.split()[1]) / 1024, 1),
            }
        )
    )


def measure(case: str, count: int, model: Path, limits: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--worker", case, str(count), str(model)]
    limit = int(limits.limit_gb * 2**30)

    def confine() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=limits.limit_seconds,
            preexec_fn=confine,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"stopped": f"over {limits.limit_seconds} s"}
    if done.returncode:
        error = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        return {"stopped": f"over {limits.limit_gb} GiB of address space", "error": error[0][:200]}
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def export(model: Path) -> None:
    import torch
    import torchvision

    from edgevision.export import export_onnx
    from edgevision.types import TensorSpec

    torch.manual_seed(0)
    module = torchvision.models.resnet18().eval()
    spec = TensorSpec("image", ("batch", *SHAPE))
    export_onnx(module, model, input_spec=spec, output_names=["logits"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--limit-gb", type=float, default=8.0)
    parser.add_argument("--limit-seconds", type=int, default=300)
    parser.add_argument("--fresh", action="store_true", help="measure everything again")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "calibration_memory.json")
    parser.add_argument("--worker", nargs=3, metavar=("CASE", "IMAGES", "MODEL"))
    arguments = parser.parse_args()
    if arguments.worker:
        case, count, model = arguments.worker
        tool, method = case.split()
        worker(tool, method, int(count), Path(model))
        return 0

    from edgevision.devices import environment
    from edgevision.files import write_json

    figures: dict[str, Any] = {}
    if arguments.output.is_file() and not arguments.fresh:
        figures = json.loads(arguments.output.read_text())["cases"]
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "resnet18.onnx"
        export(model)
        for case, count in CASES:
            key = f"{case} {count}"
            if key not in figures:
                figures[key] = measure(case, count, model, arguments)
            print(f"{key:32s} {figures[key]}", flush=True)
            result = {
                "claim": "peak memory of calibration at 1024 images is at most 1.2 times that at "
                "64, ResNet-18 at 224",
                "command": "python benchmarks/calibration_memory.py",
                "cases": figures,
                "ratio_1024_to_64": {
                    method: round(
                        figures[f"edgevision {method} 1024"]["peak_mb"]
                        / figures[f"edgevision {method} 64"]["peak_mb"],
                        4,
                    )
                    for method in ("minmax", "percentile")
                    if "peak_mb" in figures.get(f"edgevision {method} 1024", {})
                },
                "environment": environment(),
            }
            write_json(arguments.output, result)
    print(json.dumps(result["ratio_1024_to_64"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
