"""Pooling, over windows and over the whole image."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgevision.quantization.torch_ops.base import Inputs, Node, TorchOp, required
from edgevision.quantization.torch_ops.windows import pad_spatial, windows

_MAX: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_MEAN: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_CONV: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def _max_pool(node: Node, inputs: Inputs) -> Tensor:
    value = required(inputs)
    function = _MAX.get(value.ndim - 2)
    if function is None:
        raise node.refuse(f"it has {value.ndim - 2} spatial axes, torch knows 1 to 3")
    if node.outputs > 1:
        raise node.refuse("its indices are asked for")
    window = windows(node, value.shape[2:], node.get("kernel_shape"))
    dtype = value.dtype
    if not value.is_floating_point():
        value = value.float()
    ends = [end + more for end, more in zip(window.ends, window.overhang, strict=True)]
    value = pad_spatial(value, window.begins, ends, -torch.inf)
    out: Tensor = function(value, window.kernel, window.strides, 0, window.dilations)
    return out.to(dtype)


def _average_pool(node: Node, inputs: Inputs) -> Tensor:
    value = required(inputs)
    count = value.ndim - 2
    if count not in _MEAN:
        raise node.refuse(f"it has {count} spatial axes, torch knows 1 to 3")
    window = windows(node, value.shape[2:], node.get("kernel_shape"))
    if window.symmetric and not any(window.begins) and set(window.dilations) == {1}:
        mean: Tensor = _MEAN[count](value, window.kernel, window.strides)
        return mean
    ones = value.new_ones(1, 1, *value.shape[2:])
    counted = 1.0 if node.get("count_include_pad", 0) else 0.0

    def total(image: Tensor, fill: float) -> Tensor:
        image = pad_spatial(image, window.begins, window.ends, fill)
        image = pad_spatial(image, [0] * count, window.overhang)
        kernel = value.new_ones(1, 1, *window.kernel)
        out: Tensor = _CONV[count](image, kernel, None, window.strides, 0, window.dilations)
        return out

    planes = total(value.flatten(0, 1).unsqueeze(1), 0.0) / total(ones, counted)
    return planes.reshape(*value.shape[:2], *planes.shape[2:])


def _whole_image(value: Tensor) -> tuple[int, ...]:
    return tuple(range(2, value.ndim))


def _global_average(node: Node, inputs: Inputs) -> Tensor:
    value = required(inputs)
    return value.mean(_whole_image(value), keepdim=True)


def _global_max(node: Node, inputs: Inputs) -> Tensor:
    value = required(inputs)
    return value.amax(_whole_image(value), keepdim=True)


OPERATORS: dict[str, TorchOp] = {
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_average,
    "GlobalMaxPool": _global_max,
    "MaxPool": _max_pool,
}
