"""Quantize an exported torch program with embedl-deploy's defaults for TensorRT, in its own venv.

    python -m venv env
    env/bin/pip install embedl-deploy==0.8.1 embedl-deploy-tensorrt==0.8.1 torch onnx onnxsim
    env/bin/python embedl_graph.py model.pt2 images.npy quantized.onnx

``model.pt2``: as ``torch.export.save`` writes it, of a batch of one; ``images.npy``: (N, C, H, W)
float32, the calibration images. Prints embedl-deploy's version. Its licence allows
non-commercial use.
"""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from importlib.metadata import version

import numpy as np
import onnx
import onnxsim
import torch
from embedl_deploy import transform
from embedl_deploy.quantize import quantize
from embedl_deploy.tensorrt import TENSORRT_PATTERNS


def main(source: str, images: str, target: str) -> None:
    warnings.simplefilter("ignore")
    module = torch.export.load(source).module()
    batches = [torch.from_numpy(image[None]) for image in np.load(images)]

    def calibrate(model: torch.fx.GraphModule) -> None:
        for batch in batches:
            model(batch)

    with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        prepared = transform(module, (batches[0],), patterns=TENSORRT_PATTERNS).model
        quantized = quantize(prepared, (batches[0],), forward_loop=calibrate).eval()
        torch.onnx.export(
            quantized,
            (batches[0],),
            target,
            dynamo=False,
            input_names=["image"],
            output_names=["logits"],
        )
        simplified, _ = onnxsim.simplify(onnx.load(target))  # as its documentation says
        onnx.save(simplified, target)
    print(version("embedl-deploy"))


if __name__ == "__main__":
    main(*sys.argv[1:])
