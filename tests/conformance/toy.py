"""The smallest backend that there can be: the mean of every image, ten times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgevision.backends.base import Arrays, Artifact, Backend, BuildOptions, Runner
from edgevision.backends.onnx_file import read_onnx
from edgevision.files import write_atomic
from edgevision.types import Availability, LayerInfo, TensorSpec


class ToyBackend(Backend):
    name = "toy"
    artifact_suffix = ".toy"

    def is_available(self) -> Availability:
        return Availability(True, "numpy")

    def _build_impl(self, source: Path, output: Path, options: BuildOptions) -> Artifact:
        file = read_onnx(source)
        write_atomic(output, file.data)
        return Artifact(self.name, output, {"onnx_sha256": file.sha256})

    def _open_impl(self, artifact: Artifact, threads: int | None) -> Runner:
        return ToyRunner(read_onnx(artifact.path).inputs)

    def _layer_report_impl(self, artifact: Artifact) -> tuple[LayerInfo, ...]:
        return (LayerInfo("mean", "Mean", "fp32"),)


class ToyRunner(Runner):
    def __init__(self, inputs: tuple[TensorSpec, ...]) -> None:
        super().__init__(inputs, (TensorSpec("logits", ("batch", 10)),))

    def _infer_impl(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        (array,) = inputs.values()
        means = array.mean(axis=(1, 2, 3), dtype=np.float32)
        return {"logits": np.repeat(means[:, None], 10, axis=1)}

    def _close_impl(self) -> None:
        pass
