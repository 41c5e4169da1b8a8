"""Weights of 4 bits, activations of 8, on CIFAR-10: rounded to nearest, and by AdaRound.

    python benchmarks/four_bits.py --out runs/int8 [--checkpoint resnet20=FOLDER fastnet=FOLDER]

The networks and their calibration images are those of int8_accuracy.py, whose --out may be given,
so that nothing is trained twice. Both roundings use the scales of least squared error. Accuracy is
over all 10 000 test images, of the emitted graph on ONNX Runtime. Networks done are kept in the
result, so an interrupted run carries on. Writes results/four_bits.json.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from int8_accuracy import METHODS, NETWORKS, SCHEMES, Prepared, network_parser, prepare

from edgevision.devices import environment
from edgevision.export import load_onnx, save_onnx
from edgevision.files import write_json
from edgevision.quantization import calibrate, emit, get_scheme
from edgevision.quantization.adaround import adaround, mse_scales
from edgevision.quantization.quantized_torch import QuantizedTorchGraph, with_weight_bits

RESULT = Path(__file__).parent / "results" / "four_bits.json"
BATCH = 32


def measure(prepared: Prepared, folder: Path) -> dict[str, Any]:
    """Accuracy in percent for each scheme and way of rounding."""
    images = prepared.images
    model = load_onnx(prepared.fp32)
    table = calibrate(prepared.fp32, [images], method=METHODS[0])
    row: dict[str, Any] = {"fp32": prepared.accuracy(prepared.fp32)}
    for name in SCHEMES:
        four = with_weight_bits(get_scheme(name), 4)
        scaled = replace(table, weight_scales=mse_scales(model, four))
        start = time.monotonic()
        rounded = {
            "nearest": QuantizedTorchGraph(model, scaled, four).learned(),
            "adaround": adaround(
                model, table, four, (images[i : i + BATCH] for i in range(0, len(images), BATCH))
            ),
        }
        row[name] = {"adaround_seconds": round(time.monotonic() - start)}
        for way, (float_model, learned) in rounded.items():
            path = folder / f"{way}-{name}.fp32.onnx"
            save_onnx(float_model, path)
            emit(path, learned, name, folder / f"{way}-{name}.onnx")
            row[name][way] = prepared.accuracy(folder / f"{way}-{name}.onnx")
    row["environment"] = environment()
    return row


def main() -> None:
    arguments = network_parser(__doc__, ["resnet20", "fastnet"], RESULT).parse_args()
    given = dict(entry.split("=", 1) for entry in arguments.checkpoint)
    result: dict[str, Any] = {"networks": {}}
    if arguments.result.exists() and not arguments.again:
        result = json.loads(arguments.result.read_text())
    result |= {
        "claim": "4-bit weights by AdaRound and 8-bit activations lose at most 0.9 points",
        "command": "python benchmarks/four_bits.py --out OUT",
    }
    for name in arguments.networks:
        if name in result["networks"]:
            continue
        folder = arguments.out / name / "graphs"
        checkpoint = Path(given.get(name, arguments.out / name / "checkpoint"))
        row = measure(prepare(name, NETWORKS[name], checkpoint, folder), folder)
        result["networks"][name] = row
        write_json(arguments.result, result)
        print(name, json.dumps({key: row[key] for key in ("fp32", *SCHEMES)}), flush=True)


if __name__ == "__main__":
    main()
