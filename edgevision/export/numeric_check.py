"""Does the ONNX file compute what the torch module computes? Measured on real images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgevision.errors import ModelError, UsageError
from edgevision.lazy import require

if TYPE_CHECKING:
    from torch import nn

# Two float32 implementations that sum in another order differ by some 1e-6 of the output's range;
# a wrong weight, axis or epsilon differs by more than 1e-3 of it.
BOUND = 1e-4


@dataclass(frozen=True)
class NumericCheck:
    """Largest difference between ONNX Runtime and torch over all images and outputs.

    Attributes:
        max_abs: in units of the output.
        max_rel: ``max_abs`` over the output's range (largest minus smallest torch value).
        bound: what ``max_rel`` was allowed to be.
        images: how many were compared, alone and as one batch.
    """

    max_abs: float
    max_rel: float
    bound: float
    images: int


def check_against_torch(
    path: Path, module: nn.Module, images: npt.NDArray[np.float32], *, bound: float = BOUND
) -> NumericCheck:
    """Compare ``path`` on ONNX Runtime with ``module`` on torch, both on the CPU.

    The images go in one by one and, where the model's batch axis is dynamic, all at once.

    Args:
        path: ONNX file exported from ``module``.
        module: network in any mode; evaluated in evaluation mode and left as it was.
        images: (N, C, H, W) float32, preprocessed as for the network, N >= 1.
        bound: largest difference allowed, as a share of each output's range.

    Raises:
        ModelError: NaN or infinite outputs, other shapes, or a difference beyond ``bound``.
    """
    if images.ndim != 4 or not len(images) or images.dtype != np.float32:
        raise UsageError(f"images must be (N, C, H, W) float32, got {images.dtype}{images.shape}.")
    expected = _torch_outputs(module, images)
    session = _session(path)
    source = session.get_inputs()[0]
    runs = [[session.run(None, {source.name: images[i : i + 1]}) for i in range(len(images))]]
    if isinstance(source.shape[0], str):
        runs.append([session.run(None, {source.name: images})])
    max_abs = max_rel = 0.0
    for index, (output, want) in enumerate(zip(session.get_outputs(), expected, strict=True)):
        spread = float(want.max() - want.min()) or 1.0
        for run in runs:
            have = np.concatenate([outputs[index] for outputs in run])
            if have.shape != want.shape:
                raise ModelError(
                    f"{path}: output '{output.name}' has shape {have.shape}, torch {want.shape}."
                )
            if not (np.isfinite(have).all() and np.isfinite(want).all()):
                raise ModelError(f"{path}: output '{output.name}' holds NaN or infinite values.")
            difference = float(np.abs(have.astype(np.float64) - want).max())
            max_abs = max(max_abs, difference)
            max_rel = max(max_rel, difference / spread)
    if max_rel > bound:
        raise ModelError(
            f"{path}: ONNX Runtime and torch differ by {max_rel:.2e} of the output's range, "
            f"allowed is {bound:.0e}.",
            hint="The export is wrong, or the model is random or stateful in evaluation mode.",
        )
    return NumericCheck(max_abs, max_rel, bound, len(images))


def _torch_outputs(
    module: nn.Module, images: npt.NDArray[np.float32]
) -> list[npt.NDArray[np.float32]]:
    torch = require("torch")
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    modes = {name: child.training for name, child in module.named_modules()}
    module.eval()
    try:
        with torch.no_grad():
            result = module(torch.from_numpy(images).to(device))
    finally:
        for name, child in module.named_modules():
            child.training = modes[name]
    outputs = list(result) if isinstance(result, (tuple, list)) else [result]
    return [output.float().cpu().numpy() for output in outputs]


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(f"{path}: ONNX Runtime refuses the model: {error}") from error
