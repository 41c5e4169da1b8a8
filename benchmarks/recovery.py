"""MobileNetV3 on CIFAR-10: what each way of recovering accuracy gives after plain PTQ.

    python benchmarks/recovery.py --out runs/recovery

Trains timm's mobilenetv3_small_100 on images enlarged to 64 pixels, unless OUT/checkpoint is there
already, then quantizes it plainly, with cross-layer equalization, smoothing, and bias
correction (analytic, empirical), alone and together, for each scheme, and by quantization-aware
training from plain PTQ. Accuracy is over all 10 000 test images through ONNX Runtime on the graph
that is emitted; beside what was trained, how far the emitted graph agrees with the module that
learned. Calibration and correction see training images only. Writes results/recovery.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from rich.console import Console

from edgevision.cli._progress import Phases
from edgevision.data import load_data
from edgevision.data.base import DataSplits, ImageDataset
from edgevision.data.calibration import sample_calibration
from edgevision.devices import environment
from edgevision.export import export_onnx, load_onnx, save_onnx
from edgevision.files import write_json
from edgevision.models.checkpoint import load_checkpoint
from edgevision.pipeline.qat import default_qat_config, quantization_aware_training
from edgevision.preprocessing import Preprocessing
from edgevision.quantization import CalibrationTable, calibrate, emit, get_scheme
from edgevision.quantization.bias_correction import correct_biases
from edgevision.quantization.equalization import equalize, smooth
from edgevision.quantization.quantized_torch import QuantizedTorchGraph
from edgevision.quantization.simulation import network_sqnr
from edgevision.tasks import get_task
from edgevision.train import default_config, override
from edgevision.train.job import train
from edgevision.train.results import as_phase
from edgevision.types import TensorSpec

RESULT = Path(__file__).parent / "results" / "recovery.json"
SCHEMES = ("tensorrt", "x86-vnni")
BATCH = 100
# ONNX Runtime rounds a float bias to int32 where TensorRT, whose graph has it, keeps it as it is.
BIAS_ROUNDING = "WeightBiasQuantization"
Float32 = npt.NDArray[np.float32]
Change = Callable[[onnx.ModelProto, Float32], onnx.ModelProto]

GRAPHS: dict[str, Change] = {
    "": lambda model, images: model,
    "equalization": lambda model, images: equalize(model)[0],
    "smoothing": lambda model, images: smooth(model, images)[0],
    "equalization, smoothing": lambda model, images: smooth(equalize(model)[0], images)[0],
}
CORRECTIONS = ("", "analytic", "empirical")


def recover(
    float_path: Path,
    calibration: Float32,
    correction: Float32,
    accuracy: Callable[[Path], float],
    folder: Path,
    *,
    method: str = "percentile",
) -> list[dict[str, Any]]:
    """A row for each scheme and combination of methods.

    Args:
        float_path: the float ONNX file.
        calibration, correction: (N, C, H, W) images to calibrate on and to correct biases on.
        accuracy: of an ONNX file, in percent.
        folder: for the graphs.
        method: calibrator.
    """
    model = load_onnx(float_path)
    rows = []
    for graph_name, change in GRAPHS.items():
        start = time.monotonic()
        path = folder / f"float-{len(rows)}.onnx"
        save_onnx(change(model, correction), path)
        table = calibrate(path, [calibration], method=method)
        prepared = time.monotonic() - start
        for scheme in SCHEMES:
            for kind in CORRECTIONS:
                start = time.monotonic()
                corrected = table
                if kind:
                    corrected = correct_biases(path, table, scheme, correction, method=kind)
                output = folder / f"int8-{len(rows)}.onnx"
                emit(path, corrected, scheme, output)
                seconds = prepared + time.monotonic() - start
                bias = f"{kind} bias correction" if kind else ""
                methods = ", ".join(name for name in (graph_name, bias) if name)
                rows.append(
                    {
                        "scheme": scheme,
                        "methods": methods or "plain PTQ",
                        "accuracy": accuracy(output),
                        "sqnr_db": network_sqnr(model, load_onnx(output), correction),
                        "seconds": round(seconds, 1),
                    }
                )
    return rows


def right_of(
    data: ImageDataset, preprocessing: Preprocessing
) -> Callable[[Path], npt.NDArray[np.bool_]]:
    """Of each image of ``data`` whether a graph names it rightly, on ONNX Runtime."""

    def measure(path: Path) -> npt.NDArray[np.bool_]:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        source, right = session.get_inputs()[0], []
        name, fixed = source.name, source.shape[0]
        batch = fixed if isinstance(fixed, int) else BATCH
        for first in range(0, len(data), batch):
            indices = range(first, min(first + batch, len(data)))
            pixels = np.stack([preprocessing.geometry(data.image(i)) for i in indices])
            logits = session.run(None, {name: preprocessing.normalize(pixels)})[0]
            right.append(logits.argmax(1) == [data.target(i) for i in indices])
        return np.concatenate(right)

    return measure


def accuracy_of(data: ImageDataset, preprocessing: Preprocessing) -> Callable[[Path], float]:
    """Top-1 in percent over the whole of ``data``, on ONNX Runtime."""
    right = right_of(data, preprocessing)
    return lambda path: 100 * int(right(path).sum()) / len(data)


def learn(
    name: str,
    fp32: Path,
    table: CalibrationTable,
    scheme: str,
    data: DataSplits,
    preprocessing: Preprocessing,
    model: str,
    folder: Path,
) -> tuple[Path, dict[str, float]]:
    """The Q/DQ graph after quantization-aware training as ``compress`` does it.

    With it how far ONNX Runtime on the graph, just as it is, agrees with the module that learned,
    over the whole validation split: equal top-1 in percent, largest and median difference of a
    logit.
    """
    with Phases(Console()) as progress:
        done = quantization_aware_training(
            fp32,
            table,
            get_scheme(scheme),
            data,
            preprocessing,
            get_task("classification"),
            folder=folder,
            config=default_qat_config(default_config(model)),
            progress=as_phase(progress, f"{name}: quantization-aware training, {scheme}"),
        )
    learned = CalibrationTable.load(done.table_path)
    path = folder / "emitted.onnx"
    emit(done.onnx_path, learned, scheme, path)
    module = QuantizedTorchGraph(load_onnx(done.onnx_path), learned, get_scheme(scheme)).eval()
    session = onnxruntime.InferenceSession(
        str(path), providers=["CPUExecutionProvider"], disabled_optimizers=[BIAS_ROUNDING]
    )
    same, differences, largest = 0, [], 0.0
    for first in range(0, len(data.validation), BATCH):
        indices = range(first, min(first + BATCH, len(data.validation)))
        pixels = np.stack([preprocessing.geometry(data.validation.image(i)) for i in indices])
        images = preprocessing.normalize(pixels)
        with torch.no_grad():
            want = module(torch.from_numpy(images)).numpy()
        have = session.run(None, {session.get_inputs()[0].name: images})[0]
        same += int((want.argmax(1) == have.argmax(1)).sum())
        differences.append(np.abs(want - have))
        largest = max(largest, float(np.abs(want).max()))
    off = np.concatenate(differences)
    return path, {
        "top1_agreement": 100 * same / len(data.validation),
        "largest_difference": float(off.max()),
        "median_difference": float(np.median(off)),
        "largest_logit": largest,
        "training_seconds": round(done.seconds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="timm:mobilenetv3_small_100")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint and graphs")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--calibration-images", type=int, default=512)
    parser.add_argument("--correction-images", type=int, default=128)
    parser.add_argument("--method", default="percentile", help="calibrator")
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()

    size = (arguments.image_size, arguments.image_size)
    data = load_data(arguments.data, image_size=size)
    checkpoint = arguments.out / "checkpoint"
    if not (checkpoint / "model.json").is_file():
        config = override(default_config(arguments.model), epochs=arguments.epochs)
        with Phases(Console()) as progress:
            told = as_phase(progress, "training")
            train(arguments.model, data, out=checkpoint, config=config, progress=told)
    module, card = load_checkpoint(checkpoint)
    preprocessing = card.as_preprocessing()
    float_path = arguments.out / "float.onnx"
    spec = TensorSpec("image", ("batch", *preprocessing.input_shape))
    export_onnx(module, float_path, input_spec=spec, output_names=["logits"])
    chosen = sample_calibration(
        data.train,
        get_task("classification"),
        arguments.calibration_images,
        0,
        validation=data.validation,
    )
    images = np.concatenate(list(chosen.batches(preprocessing, BATCH)))
    accuracy = accuracy_of(data.validation, preprocessing)
    fp32 = accuracy(float_path)
    rows = recover(
        float_path,
        images,
        images[: arguments.correction_images],
        accuracy,
        arguments.out,
        method=arguments.method,
    )
    table = calibrate(float_path, [images], method=arguments.method)
    for scheme in SCHEMES:
        folder = arguments.out / "graphs" / f"qat-{scheme}"
        path, agreement = learn(
            arguments.model, float_path, table, scheme, data, preprocessing, arguments.model, folder
        )
        rows.append({"scheme": scheme, "methods": "QAT", "accuracy": accuracy(path), **agreement})
    for row in rows:
        row["drop"] = round(fp32 - row["accuracy"], 3)
        print(f"{row['scheme']:10s} {row['accuracy']:6.2f} {row['drop']:+6.2f}  {row['methods']}")
    write_json(
        arguments.result,
        {
            "claim": "MobileNetV3 after PTQ alone and with each method of recovery",
            "command": f"python benchmarks/recovery.py --model {arguments.model} --out OUT "
            f"--image-size {arguments.image_size} --epochs {arguments.epochs}",
            "data": arguments.data,
            "test_images": len(data.validation),
            "calibration_images": len(images),
            "correction_images": min(arguments.correction_images, len(images)),
            "calibrator": arguments.method,
            "fp32_accuracy": fp32,
            "rows": rows,
            "environment": environment(),
        },
    )


if __name__ == "__main__":
    main()
