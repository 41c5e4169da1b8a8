"""Resize, one axis after the other: interpolation is a product with a small matrix."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgevision.quantization.torch_ops.base import Inputs, Node, TorchOp, optional, required, whole

Float64 = npt.NDArray[np.float64]


def _resize(node: Node, inputs: Inputs) -> Tensor:
    value = required(inputs)
    if node.get("antialias", 0):
        raise node.refuse("antialias is not supported")
    if node.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise node.refuse("only keep_aspect_ratio_policy 'stretch' is supported")
    scales, sizes = optional(inputs, 2), optional(inputs, 3)
    axes = [axis % value.ndim for axis in node.get("axes", range(value.ndim))]
    if sizes is not None and sizes.numel():
        wanted = whole(sizes)
        factors = [size / value.shape[axis] for size, axis in zip(wanted, axes, strict=True)]
    elif scales is not None:
        factors = [float(scale) for scale in scales.tolist()]
        wanted = [int(value.shape[axis] * f) for f, axis in zip(factors, axes, strict=True)]
    else:
        raise node.refuse("neither scales nor sizes are given")
    for axis, size, factor in zip(axes, wanted, factors, strict=True):
        if size == value.shape[axis] and factor == 1:
            continue
        places = _places(node, value.shape[axis], size, factor)
        if node.get("mode", "nearest") == "nearest":
            chosen = torch.from_numpy(_nearest(node, places, value.shape[axis]))
            value = value.index_select(axis, chosen.to(value.device))
        else:
            matrix = torch.from_numpy(_matrix(node, places, value.shape[axis]))
            matrix = matrix.to(value.device, value.dtype)
            value = (value.movedim(axis, -1) @ matrix.T).movedim(-1, axis)
    return value


def _places(node: Node, have: int, want: int, factor: float) -> Float64:
    """Where each output position lies in the input, by the node's coordinate transformation."""
    out = np.arange(want, dtype=np.float64)
    mode = node.get("coordinate_transformation_mode", "half_pixel")
    if mode == "asymmetric":
        return out / factor
    if mode == "align_corners":
        return out * (have - 1) / (factor * have - 1) if want > 1 else np.zeros(1)
    if mode == "pytorch_half_pixel" and want == 1:
        return np.zeros(1)
    if mode in ("half_pixel", "pytorch_half_pixel"):
        return (out + 0.5) / factor - 0.5
    if mode == "half_pixel_symmetric":
        offset = have / 2 * (1 - want / (factor * have))
        return offset + (out + 0.5) / factor - 0.5
    raise node.refuse(f"coordinate_transformation_mode '{mode}' is not supported")


def _nearest(node: Node, places: Float64, have: int) -> npt.NDArray[np.int64]:
    mode = node.get("nearest_mode", "round_prefer_floor")
    rounded = {
        "round_prefer_floor": lambda: np.ceil(places - 0.5),
        "round_prefer_ceil": lambda: np.floor(places + 0.5),
        "floor": lambda: np.floor(places),
        "ceil": lambda: np.ceil(places),
    }
    if mode not in rounded:
        raise node.refuse(f"nearest_mode '{mode}' is unknown")
    chosen: npt.NDArray[np.int64] = np.clip(rounded[mode](), 0, have - 1).astype(np.int64)
    return chosen


def _matrix(node: Node, places: Float64, have: int) -> Float64:
    """(outputs, inputs): how much of each input goes into each output."""
    mode = node.get("mode")
    if mode not in ("linear", "cubic"):
        raise node.refuse(f"mode '{mode}' is not supported")
    floor = np.floor(places)
    rest = places - floor
    reach = np.arange(2) if mode == "linear" else np.arange(-1, 3)
    distance = np.abs(rest[:, None] - reach[None])
    if mode == "linear":
        shares = 1 - distance
    else:
        shares = _keys(distance, node.get("cubic_coeff_a", -0.75))
    taken = (floor[:, None] + reach[None]).astype(np.int64)
    if node.get("exclude_outside", 0):
        shares = np.where((taken < 0) | (taken >= have), 0.0, shares)
        shares = shares / shares.sum(1, keepdims=True)
    matrix = np.zeros((len(places), have))
    rows = np.broadcast_to(np.arange(len(places))[:, None], taken.shape)
    np.add.at(matrix, (rows, np.clip(taken, 0, have - 1)), shares)
    return matrix


def _keys(distance: Float64, a: float) -> Float64:
    """Cubic convolution (Keys 1981) at distances of 0 to 2 pixels."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((distance - 5) * distance + 8) * distance * a - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


OPERATORS: dict[str, TorchOp] = {"Resize": _resize}
