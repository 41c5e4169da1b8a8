"""Time and peak memory of calibration, ResNet-18 at 224: ours beside ONNX Runtime's and NNCF's.

    python benchmarks/calibration_speed.py [--nncf-python nncf-env/bin/python]

Each case is a process of its own that makes its images one by one from a seed, so that no data
set is held in memory. Its time is that of the calibration without imports: for ONNX Runtime from
create_calibrator to compute_data, for NNCF quantize with its default preset and without bias
correction. Its peak is VmHWM, from the process's start, libraries included. Rounds take all cases
in an order drawn anew. Cases are stopped at --limit-gb of address space or --limit-seconds and say
so, and are not tried again. Without --nncf-python (see peers/nncf_graph.py) NNCF is left out.
Writes results/calibration_speed.json after every case and goes on from there.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

HERE = Path(__file__).resolve().parent
SHAPE = (3, 224, 224)
OURS = ("entropy", "percentile", "mse", "minmax")


def images(count: int) -> Iterator[npt.NDArray[np.float32]]:
    """``count`` arrays of (1, 3, 224, 224) float32 noise, the same every time."""
    generator = np.random.default_rng(0)
    for _ in range(count):
        yield generator.standard_normal((1, *SHAPE), np.float32)


def edgevision(model: Path, method: str, count: int) -> Callable[[], Any]:
    from edgevision.quantization import calibrate

    return lambda: calibrate(model, images(count), method=method)


def onnxruntime(model: Path, method: str, count: int) -> Callable[[], Any]:
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.feeds = ({"image": image} for image in images(count))

        def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
            return next(self.feeds, None)

    methods = {
        "entropy": CalibrationMethod.Entropy,
        "percentile": CalibrationMethod.Percentile,
        "minmax": CalibrationMethod.MinMax,
    }

    def run() -> Any:
        # The operators that quantize_static takes by default, as far as ResNet-18 has them.
        operators = ["Conv", "Gemm", "MatMul", "Add", "Relu", "MaxPool", "GlobalAveragePool"]
        calibrator = create_calibrator(
            str(model),
            operators,
            augmented_model_path=str(model.with_name(f"augmented-{method}.onnx")),
            calibrate_method=methods[method],
        )
        calibrator.collect_data(Reader())
        return calibrator.compute_data()

    return run


def nncf(model: Path, method: str, count: int) -> Callable[[], Any]:
    import nncf
    import onnx

    class Feeds:
        def __iter__(self) -> Iterator[dict[str, npt.NDArray[np.float32]]]:
            return ({"image": image} for image in images(count))

    advanced = nncf.AdvancedQuantizationParameters(disable_bias_correction=True)

    def run() -> Any:
        return nncf.quantize(
            onnx.load(model),
            nncf.Dataset(Feeds()),
            subset_size=count,
            advanced_parameters=advanced,
        )

    return run


TOOLS = {"edgevision": edgevision, "onnxruntime": onnxruntime, "nncf": nncf}


def worker(tool: str, method: str, count: int, model: Path) -> None:
    run = TOOLS[tool](model, method, count)
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    run()
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    status = Path("/proc/self/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    figures = {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "peak_mb": round(int(peak.split()[1]) / 1024, 1),
    }
    print(json.dumps(figures))


def measure(case: str, model: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    python = arguments.nncf_python if case.startswith("nncf") else sys.executable
    command = [python, __file__, "--worker", *case.split(), str(model)]
    limit = int(arguments.limit_gb * 2**30)

    def confine() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=arguments.limit_seconds,
            preexec_fn=confine,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"stopped": f"over {arguments.limit_seconds} s"}
    if done.returncode:
        error = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        return {"stopped": f"within {arguments.limit_gb} GiB of address space: {error[0][:200]}"}
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def sizes(count: int) -> tuple[int, int, int]:
    """For the table of time and memory: 64, 256 and 1024 images where ``count`` is 512."""
    return max(1, count // 8), max(1, count // 2), 2 * count


def cases(count: int, nncf_python: str | None) -> list[str]:
    """``TOOL METHOD IMAGES`` each."""
    out = [f"edgevision {method} {count}" for method in OURS]
    out += [f"edgevision entropy {size}" for size in sizes(count)]
    out += [f"onnxruntime {method} {count}" for method in ("entropy", "percentile", "minmax")]
    return [*dict.fromkeys(out), *([f"nncf minmax {count}"] if nncf_python else [])]


def summary(runs: dict[str, list[dict[str, Any]]], count: int) -> dict[str, Any]:
    """Medians of the runs that ended, and what the claims are about."""
    middle = {
        case: {field: median(run[field] for run in ended) for field in ("seconds", "peak_mb")}
        for case, each in runs.items()
        if (ended := [run for run in each if "seconds" in run])
    }
    out: dict[str, Any] = {"median": middle}
    for method in ("entropy", "percentile"):
        ours = middle.get(f"edgevision {method} {count}")
        theirs = middle.get(f"onnxruntime {method} {count}")
        other = middle.get(f"nncf minmax {count}")
        if ours and theirs:
            out[f"{method}: times faster than onnxruntime"] = theirs["seconds"] / ours["seconds"]
            out[f"{method}: peak over onnxruntime's"] = ours["peak_mb"] / theirs["peak_mb"]
        if ours and other:
            out[f"{method}: time over nncf's"] = ours["seconds"] / other["seconds"]
    table = [(n, middle.get(f"edgevision entropy {n}")) for n in sizes(count)]
    for (few, less), (many, more) in pairwise(table):
        if less and more:
            slope = (more["seconds"] - less["seconds"]) / (many - few)
            out[f"entropy: seconds an image from {few} to {many}"] = slope
            out[f"entropy: peak at {many} over that at {few}"] = more["peak_mb"] / less["peak_mb"]
    return out


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
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3, help="rounds over all cases")
    parser.add_argument("--nncf-python", help="Python of an environment with NNCF")
    parser.add_argument("--limit-gb", type=float, default=20.0)
    parser.add_argument("--limit-seconds", type=int, default=600)
    parser.add_argument("--fresh", action="store_true", help="measure everything again")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "calibration_speed.json")
    parser.add_argument("--worker", nargs=4, metavar=("TOOL", "METHOD", "IMAGES", "MODEL"))
    arguments = parser.parse_args()
    if arguments.worker:
        tool, method, count, path = arguments.worker
        worker(tool, method, int(count), Path(path))
        return 0

    from edgevision.devices import environment
    from edgevision.files import write_json

    runs: dict[str, list[dict[str, Any]]] = {}
    if arguments.output.is_file() and not arguments.fresh:
        runs = json.loads(arguments.output.read_text())["runs"]
    order = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "resnet18.onnx"
        export(model)
        for number in range(arguments.repeats):
            todo = cases(arguments.images, arguments.nncf_python)
            order.shuffle(todo)
            for case in todo:
                before = runs.setdefault(case, [])
                if len(before) > number or any("stopped" in run for run in before):
                    continue
                runs[case].append(measure(case, model, arguments))
                print(f"{case:28s} {runs[case][-1]}", flush=True)
                result = {
                    "claim": "ResNet-18 at 224, 512 images: entropy and percentile at least 4 "
                    "times faster than ONNX Runtime's and at most a tenth of its peak memory, no "
                    "slower than NNCF; time linear in the images, memory flat",
                    "command": "python benchmarks/calibration_speed.py --nncf-python PYTHON "
                    f"--images {arguments.images} --repeats {arguments.repeats}",
                    "runs": runs,
                    "summary": summary(runs, arguments.images),
                    "environment": environment(),
                }
                write_json(arguments.output, result)
    print(json.dumps(summary(runs, arguments.images), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
