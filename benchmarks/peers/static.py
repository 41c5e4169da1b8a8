"""The peers' INT8 graphs of one float ONNX file and the same calibration images."""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

Float32 = npt.NDArray[np.float32]

OUTSIDE = ("nncf", "modelopt", "embedl")  # peers in environments of their own
# TensorRT wants symmetric int8 and no integer bias; with its defaults the tool's graph fails there.
_LAYERS = ["Conv", "Gemm", "MatMul", "Add"]
STATIC_FORMS: dict[str, dict[str, Any]] = {
    "default": {},
    "tensorrt": {
        "quant_format": QuantFormat.QDQ,
        "activation_type": QuantType.QInt8,
        "weight_type": QuantType.QInt8,
        "per_channel": True,
        "op_types_to_quantize": [*_LAYERS, "MaxPool"],
        "extra_options": {
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,
            "OpTypesToExcludeOutputQuantization": _LAYERS,
        },
    },
}


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Hands images to ONNX Runtime's tool one by one."""

    def __init__(self, name: str, images: Float32) -> None:
        self.feeds = iter([{name: image[None]} for image in images])

    def get_next(self) -> dict[str, Float32] | None:
        return next(self.feeds, None)


def static_graph(
    fp32: Path, images: Float32, output: Path, *, form: str = "default", method: str = "MinMax"
) -> str | None:
    """``quantize_static`` in one of its forms; None, or why it failed."""
    prepared = output.with_suffix(".prepared.onnx")
    name = onnx.load(fp32, load_external_data=False).graph.input[0].name
    try:
        quant_pre_process(str(fp32), str(prepared))
        quantize_static(
            str(prepared),
            str(output),
            Reader(name, images),
            calibrate_method=CalibrationMethod[method],
            **STATIC_FORMS[form],
        )
    except Exception as error:  # noqa: BLE001
        return f"failed: {error}"[:300]
    return None


def outside_graph(
    peer: str, source: Path, images: Float32, output: Path, python: str
) -> tuple[str, str | None]:
    """The defaults of a ``peer`` in its own environment: (version, None) or ("", why it failed).

    Args:
        peer: ``nncf``, ``modelopt`` or ``embedl``: the script ``PEER_graph.py`` beside this file.
        source: the float ONNX file; for ``embedl`` the exported torch program.
        python: of the environment.
    """
    saved = output.with_suffix(".npy")
    np.save(saved, images)
    script = Path(__file__).with_name(f"{peer}_graph.py")
    command = [python, script, source, saved, output]
    done = subprocess.run(command, capture_output=True, text=True)
    saved.unlink()
    if done.returncode != 0:
        return "", f"failed: {done.stderr.strip()[-300:]}"
    return done.stdout.strip().splitlines()[-1], None


def save_program(module: torch.nn.Module, shape: tuple[int, ...], output: Path) -> None:
    """``module`` as an exported torch program for one image of ``shape``, for ``embedl``."""
    torch.export.save(torch.export.export(module.eval(), (torch.zeros(1, *shape),)), output)


def add_peer_arguments(parser: argparse.ArgumentParser) -> None:
    """An option for the Python of each peer's own environment."""
    for peer in OUTSIDE:
        parser.add_argument(f"--{peer}-python", help="Python of an environment with it")


def peer_pythons(arguments: argparse.Namespace) -> dict[str, str]:
    """Peer → Python, of those that were given."""
    given = {peer: getattr(arguments, f"{peer}_python") for peer in OUTSIDE}
    return {peer: python for peer, python in given.items() if python is not None}


def peer_graphs(
    fp32: Path, images: Float32, folder: Path, nncf_python: str | None
) -> tuple[dict[str, Path], dict[str, str]]:
    """``quantize_static`` with its defaults and, where its environment is given, NNCF.

    Returns the files by name and the versions. A peer that fails is left out, with its error in
    place of the version.
    """
    graphs: dict[str, Path] = {}
    versions: dict[str, str] = {"onnxruntime": onnxruntime.__version__}
    static, nncf = folder / "quantize_static.onnx", folder / "nncf.onnx"
    error = static_graph(fp32, images, static)
    if error is None:
        graphs["quantize_static"] = static
    else:
        versions["quantize_static"] = error
    if nncf_python is not None:
        version, error = outside_graph("nncf", fp32, images, nncf, nncf_python)
        versions["nncf"] = error or version
        if error is None:
            graphs["nncf"] = nncf
    return graphs, versions
