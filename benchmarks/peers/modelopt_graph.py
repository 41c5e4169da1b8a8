"""Quantize an ONNX file with ModelOpt's defaults, in float32. Runs in an environment of its own.

    python -m venv env
    env/bin/pip install nvidia-modelopt onnx onnxruntime onnxscript onnx-graphsurgeon \\
        onnxconverter-common onnxslim polygraphy cppimport lief requests huggingface_hub
    env/bin/python modelopt_graph.py model.onnx images.npy quantized.onnx

Its ``onnx`` extra would bring a second ONNX Runtime. ``images.npy``: (N, C, H, W) float32, the
calibration images. Prints ModelOpt's version.
"""

from __future__ import annotations

import contextlib
import io
import sys
from importlib.metadata import version

import numpy as np
import onnx
from modelopt.onnx.quantization import quantize


def main(source: str, images: str, target: str) -> None:
    name = onnx.load(source, load_external_data=False).graph.input[0].name
    with contextlib.redirect_stdout(io.StringIO()):
        quantize(
            source,
            calibration_data={name: np.load(images)},
            calibration_eps=["cpu"],
            high_precision_dtype="fp32",
            output_path=target,
            log_level="ERROR",
        )
    print(version("nvidia-modelopt"))


if __name__ == "__main__":
    main(*sys.argv[1:])
