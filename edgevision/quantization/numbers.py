"""The arithmetic of quantization: scales and zero points from ranges, integers from floats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgevision.errors import ModelError
from edgevision.quantization.schemes import Scheme
from edgevision.quantization.table import TensorRange

# A tensor that is zero throughout has no range; any scale serves, if float32 can divide by it.
_SMALLEST_SCALE = 1e-10
# An int32 bias must leave room for the products added to it.
BIAS_LIMIT = 2.0**30


class QuantParams(NamedTuple):
    """``real = (integer - zero_point) * scale``; 0-d arrays, or (C,) for one a channel."""

    scale: npt.NDArray[np.float32]
    zero_point: npt.NDArray[Any]


def activation_params(ranges: Sequence[TensorRange], scheme: Scheme) -> QuantParams:
    """Scale and zero point of activations that span all of ``ranges``; zero is always exact."""
    bottom, top = scheme.activation.limits
    dtype = np.dtype(scheme.activation.dtype)
    if scheme.activation.symmetric:
        scale = max(max(r.amax for r in ranges) / top, _SMALLEST_SCALE)
        return QuantParams(np.array(scale, np.float32), np.array(0, dtype))
    low = min(0.0, *(r.low for r in ranges))
    high = max(0.0, *(r.high for r in ranges))
    scale = max((high - low) / (top - bottom), _SMALLEST_SCALE)
    zero_point = int(np.clip(np.rint(bottom - low / scale), bottom, top))
    return QuantParams(np.array(scale, np.float32), np.array(zero_point, dtype))


def weight_params(
    weight: npt.NDArray[np.float32],
    axis: int | None,
    scheme: Scheme,
    *,
    input_scale: npt.NDArray[np.float32] | None = None,
    bias: npt.NDArray[np.float32] | None = None,
    learned: npt.NDArray[np.float32] | None = None,
) -> QuantParams:
    """Symmetric scales of a weight tensor, one for each position on ``axis``.

    ``learned`` scales, of the same shape, are taken instead of what the largest weights ask for.

    With an int32 ``bias`` on ``input_scale``, a channel whose weights are too small for its bias
    to fit gets a larger scale; its weights hardly count beside that bias anyway.
    """
    others = None if axis is None else tuple(i for i in range(weight.ndim) if i != axis)
    peak = np.abs(weight.astype(np.float64)).max(axis=others)
    wanted = peak / scheme.weight.limit if learned is None else learned.astype(np.float64)
    if wanted.shape != peak.shape:
        raise ModelError(f"Learned weight scales have shape {wanted.shape}, not {peak.shape}.")
    scale = np.maximum(wanted, _SMALLEST_SCALE)
    if bias is not None and input_scale is not None:
        needed = np.abs(bias.astype(np.float64)) / (BIAS_LIMIT * float(input_scale))
        scale = np.maximum(scale, needed if axis is not None else needed.max())
    return QuantParams(scale.astype(np.float32), np.zeros(scale.shape, np.int8))


def quantize(
    array: npt.NDArray[np.float32], params: QuantParams, axis: int | None, limit: int
) -> npt.NDArray[np.int8]:
    """Round symmetric ``array`` to int8, half to even, inside ``-limit`` to ``limit``."""
    shape = [1] * array.ndim
    if axis is not None:
        shape[axis] = -1
    scaled = array.astype(np.float64) / params.scale.astype(np.float64).reshape(shape)
    return np.clip(np.rint(scaled), -limit, limit).astype(np.int8)


def quantize_bias(
    bias: npt.NDArray[np.float32], scale: npt.NDArray[np.float32]
) -> npt.NDArray[np.int32]:
    """Round ``bias`` to int32 on ``scale`` (0-d or (C,))."""
    limits = np.iinfo(np.int32)
    rounded = np.rint(bias.astype(np.float64) / scale.astype(np.float64))
    return np.clip(rounded, limits.min, limits.max).astype(np.int32)
