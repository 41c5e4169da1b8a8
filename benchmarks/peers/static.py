"""The peers' INT8 graphs of one float ONNX file and the same calibration images."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Hands images to ONNX Runtime's tool one by one."""

    def __init__(self, name: str, images: npt.NDArray[np.float32]) -> None:
        self.feeds = iter([{name: image[None]} for image in images])

    def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
        return next(self.feeds, None)


def peer_graphs(
    fp32: Path, images: npt.NDArray[np.float32], folder: Path, nncf_python: str | None
) -> tuple[dict[str, Path], dict[str, str]]:
    """``quantize_static`` with its defaults and, in an environment of its own, NNCF.

    Returns the files by name and the versions. A peer that fails is left out, with its error in
    place of the version.
    """
    graphs: dict[str, Path] = {}
    versions: dict[str, str] = {"onnxruntime": onnxruntime.__version__}
    prepared, static = folder / "prepared.onnx", folder / "quantize_static.onnx"
    name = onnx.load(fp32, load_external_data=False).graph.input[0].name
    try:
        quant_pre_process(str(fp32), str(prepared))
        quantize_static(str(prepared), str(static), Reader(name, images))
        graphs["quantize_static"] = static
    except Exception as error:  # noqa: BLE001
        versions["quantize_static"] = f"failed: {error}"[:300]
    if nncf_python is not None:
        np.save(folder / "images.npy", images)
        nncf = folder / "nncf.onnx"
        script = Path(__file__).with_name("nncf_graph.py")
        command = [nncf_python, script, fp32, folder / "images.npy", nncf]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            graphs["nncf"] = nncf
            versions["nncf"] = done.stdout.strip().splitlines()[-1]
        else:
            versions["nncf"] = f"failed: {done.stderr.strip()[-300:]}"
    return graphs, versions
