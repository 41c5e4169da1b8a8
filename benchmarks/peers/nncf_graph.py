"""Quantize an ONNX file with NNCF's defaults. Runs in an environment of its own.

    python -m venv nncf-env && nncf-env/bin/pip install nncf onnx onnxruntime
    nncf-env/bin/python nncf_graph.py model.onnx images.npy quantized.onnx

``images.npy``: (N, C, H, W) float32, the calibration images. Prints NNCF's version.
"""

from __future__ import annotations

import contextlib
import io
import sys

import nncf
import numpy as np
import onnx


def main(source: str, images: str, target: str) -> None:
    model = onnx.load(source)
    name = model.graph.input[0].name
    feeds = [{name: image[None]} for image in np.load(images)]
    with contextlib.redirect_stdout(io.StringIO()):
        quantized = nncf.quantize(model, nncf.Dataset(feeds), subset_size=len(feeds))
    onnx.save(quantized, target)
    print(nncf.__version__)


if __name__ == "__main__":
    main(*sys.argv[1:])
