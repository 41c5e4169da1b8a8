"""ONNX files that EdgeVision did not make: each is quantized, or refused with the reason.

    python benchmarks/foreign_onnx.py [FILE.onnx …]

Without FILEs: backend models of the `onnx` package, the data files of `onnxruntime`, and files that
other exporters and tools write here from torchvision networks with seeded weights: TorchScript's
exporter in opset 11, torch's newer one in opset 23, ONNX Runtime's static (Q/DQ) and dynamic
quantizers, its float16 converter and its graph optimizer. The backend models come with weights that
are all one value, so seeded ones take their place: their structure is what is tried.

Calibrated on 16 of the Fashion-MNIST photographs that ship with EdgeVision, resized; SQNR is over 8
others, of the Q/DQ graph against the adopted float graph, both on ONNX Runtime.
Writes results/foreign_onnx.json.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
import torchvision
from onnx import numpy_helper

from edgevision.data import load_data
from edgevision.devices import environment
from edgevision.errors import EdgeVisionError
from edgevision.export import save_onnx
from edgevision.export.adopt import INPUT_NAME, adopt
from edgevision.files import sha256_file, write_json
from edgevision.preprocessing import Preprocessing
from edgevision.quantization import calibrate, emit

HERE = Path(__file__).resolve().parent
SCHEMES = ("tensorrt", "x86-vnni")
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
CALIBRATION, COMPARED = 16, 8
LIGHT = ("squeezenet", "shufflenet", "densenet121", "inception_v1", "inception_v2", "resnet50")
Float32 = npt.NDArray[np.float32]


def images(shape: tuple[int, int, int], start: int, count: int) -> Float32:
    channels, height, width = shape
    data = load_data("fashion-mnist-mini").validation
    color = "gray" if channels == 1 else "rgb"
    how = Preprocessing(height, width, color=color, mean=(0.45,) * channels, std=(0.25,) * channels)
    pixels = [how.geometry(data.image(i)) for i in range(start, start + count)]
    return how.normalize(np.stack(pixels))


def from_packages(folder: Path) -> Iterator[tuple[str, Path, Path]]:
    """(where from, the file, what is tried: the file, or a copy with seeded weights)."""
    data = Path(onnx.__file__).parent / "backend" / "test" / "data"
    where = f"onnx {importlib.metadata.version('onnx')}"
    for name in LIGHT:
        file = data / "light" / f"light_{name}.onnx"
        yield where, file, seeded(file, folder / file.name)
    for name in ("test_Conv2d", "test_BatchNorm2d_eval"):
        file = data / "pytorch-converted" / name / "model.onnx"
        yield where, file, file
    where = f"onnxruntime {importlib.metadata.version('onnxruntime')}"
    for file in sorted((Path(onnxruntime.__file__).parent / "datasets").glob("*.onnx")):
        yield where, file, file


def seeded(file: Path, copy: Path) -> Path:
    """``file`` with noise of He's variance for weights, in place of ConstantOfShape nodes."""
    model = onnx.load(file)
    shapes = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    random = np.random.default_rng(0)
    for node in list(model.graph.node):
        if node.op_type != "ConstantOfShape" or node.input[0] not in shapes:
            continue
        shape = [int(axis) for axis in shapes[node.input[0]]]
        if len(shape) > 1:
            values = random.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))
        else:
            values = random.uniform(0.5, 1.5, shape)  # variances and scales are above zero
        model.graph.node.remove(node)
        model.graph.initializer.append(
            numpy_helper.from_array(values.astype(np.float32), node.output[0])
        )
    model.ir_version = 8
    onnx.save(model, copy)
    return copy


@contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def from_tools(folder: Path) -> Iterator[tuple[str, Path, Path]]:
    """Files that other programs write, each from the one before or from torchvision."""
    torch.manual_seed(0)
    example = torch.zeros(1, 3, 128, 128)
    script = folder / "mobilenet_v3_small-torchscript-opset11.onnx"
    net = torchvision.models.mobilenet_v3_small().eval()
    newer = folder / "resnet18-dynamo-opset23.onnx"
    resnet = torchvision.models.resnet18().eval()
    with quiet():
        torch.onnx.export(
            net,
            (example,),
            str(script),
            dynamo=False,
            opset_version=11,
            do_constant_folding=False,
            training=torch.onnx.TrainingMode.PRESERVE,
        )
        torch.onnx.export(
            resnet, (example,), str(newer), dynamo=True, verbose=False, opset_version=23
        )
    where = f"torch {torch.__version__}"
    yield where, script, script
    yield where, newer, newer
    where = f"onnxruntime {onnxruntime.__version__}"
    tools: dict[str, Callable[[Path, Path], None]] = {
        "qdq": quantized_static,
        "dynamic": quantized_dynamic,
        "float16": float16,
        "optimized": optimized,
    }
    base = folder / "resnet18-opset13.onnx"
    with quiet():
        torch.onnx.export(resnet, (example,), str(base), dynamo=False, opset_version=13)
    for name, tool in tools.items():
        file = folder / f"resnet18-{name}.onnx"
        with quiet():
            tool(base, file)
        yield where, file, file


def quantized_static(source: Path, out: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            name = onnx.load(source).graph.input[0].name
            self.feeds = iter([{name: one[None]} for one in images((3, 128, 128), 0, 4)])

        def get_next(self) -> dict[str, Float32] | None:
            return next(self.feeds, None)

    quantize_static(source, out, Reader(), per_channel=True)


def quantized_dynamic(source: Path, out: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(source, out)


def float16(source: Path, out: Path) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(source)), out)


def optimized(source: Path, out: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(out)
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def tried(path: Path, folder: Path) -> dict[str, Any]:
    """What became of one file."""
    try:
        adopted = adopt(path)
    except EdgeVisionError as error:
        return {"adopted": False, "reason": error.message.replace(str(path), path.name)}
    shape = tuple(d.dim_value for d in adopted.model.graph.input[0].type.tensor_type.shape.dim[1:])
    graph = folder / "adopted.onnx"
    save_onnx(adopted.model, graph)
    row: dict[str, Any] = {
        "adopted": True,
        "notes": list(adopted.notes),
        "max_rel_from_file": adopted.check.max_rel,
        "image": list(shape),
        "operators": len(adopted.model.graph.node),
    }
    try:
        table = calibrate(graph, [images(shape, 0, CALIBRATION)], threads=1)
    except EdgeVisionError as error:
        return {**row, "reason": error.message.replace(str(path), path.name)}
    compared = images(shape, CALIBRATION, COMPARED)
    for scheme in SCHEMES:
        row[scheme] = quantized(graph, table, scheme, compared, folder)
    return row


def quantized(
    graph: Path, table: Any, scheme: str, compared: Float32, folder: Path
) -> dict[str, Any]:
    out = folder / f"{scheme}.onnx"
    try:
        report = emit(graph, table, scheme, out)
    except EdgeVisionError as error:
        return {"quantized": False, "reason": error.message.replace(str(graph), "the graph")}
    floats = Counter(f"{n.operator}: {n.reason}" for n in report.nodes if n.asked == "float")
    layers = [node.asked for node in report.nodes if node.operator in LAYERS]
    return {
        "quantized": True,
        "asked": report.counts(),
        "layers_int8": f"{layers.count('int8')} of {len(layers)}",
        "left_in_float": dict(sorted(floats.items())),
        "sqnr_db": sqnr(graph, out, compared),
    }


def sqnr(graph: Path, emitted: Path, compared: Float32) -> float | None:
    """Lowest over the outputs, in dB; None where an output says nothing (all zero)."""
    found = []
    for path in (graph, emitted):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        runs = [session.run(None, {INPUT_NAME: one[None]}) for one in compared]
        found.append([np.concatenate(parts) for parts in zip(*runs, strict=True)])
    ratios = []
    for want, have in zip(*found, strict=True):
        signal = float(np.square(want.astype(np.float64)).sum())
        noise = float(np.square(want.astype(np.float64) - have).sum())
        if signal and noise:
            ratios.append(10 * np.log10(signal / noise))
    return round(min(ratios), 1) if ratios else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="other files than the default ones")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "foreign_onnx.json")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = [("given", file, file) for file in options.files]
        for where, file, path in given or [*from_packages(folder), *from_tools(folder)]:
            about = f"{file.parent.name}/{file.name}" if file.name == "model.onnx" else file.name
            row = {"file": about, "from": where, "sha256": sha256_file(file)}
            row["weights"] = "the file's" if path == file else "seeded"
            row |= tried(path, folder)
            rows.append(row)
            told = row.get("reason") or {s: row[s].get("layers_int8") for s in SCHEMES}
            print(f"{about}: {told}", flush=True)
    write_json(
        options.out,
        {
            "command": f"python benchmarks/foreign_onnx.py {' '.join(sys.argv[1:])}".strip(),
            "environment": environment(),
            "files": rows,
        },
    )


if __name__ == "__main__":
    main()
