"""Conv and ConvTranspose in one, two or three dimensions."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from edgevision.quantization.torch_ops.base import Inputs, Node, TorchOp, optional, required
from edgevision.quantization.torch_ops.windows import pad_spatial, windows

_CONV: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Any] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def _conv(node: Node, inputs: Inputs) -> Tensor:
    value, weight, bias = required(inputs), required(inputs, 1), optional(inputs, 2)
    function = _CONV.get(value.ndim - 2)
    if function is None:
        raise node.refuse(f"it has {value.ndim - 2} spatial axes, torch knows 1 to 3")
    window = windows(node, value.shape[2:], weight.shape[2:])
    padding: Any = 0
    if window.symmetric:
        padding = window.begins
    else:
        value = pad_spatial(value, window.begins, window.ends)
    out: Tensor = function(
        value, weight, bias, window.strides, padding, window.dilations, node.get("group", 1)
    )
    return out


def _conv_transpose(node: Node, inputs: Inputs) -> Tensor:
    value, weight, bias = required(inputs), required(inputs, 1), optional(inputs, 2)
    count = value.ndim - 2
    function = _TRANSPOSED.get(count)
    if function is None:
        raise node.refuse(f"it has {count} spatial axes, torch knows 1 to 3")
    strides = list(node.get("strides") or [1] * count)
    dilations = list(node.get("dilations") or [1] * count)
    extra = list(node.get("output_padding") or [0] * count)
    # In full, then the borders are cut off: so any pads will do.
    out: Tensor = function(value, weight, None, strides, 0, 0, node.get("group", 1), dilations)
    out = pad_spatial(out, [0] * count, extra)
    begins, ends = _cut(node, list(value.shape[2:]), list(out.shape[2:]), strides)
    out = pad_spatial(out, [-b for b in begins], [-e for e in ends])
    return out if bias is None else out + bias.reshape(1, -1, *[1] * count)


def _cut(
    node: Node, sizes: list[int], full: list[int], strides: list[int]
) -> tuple[list[int], list[int]]:
    """How much of the full output is cut off at the beginning and end of each spatial axis."""
    count, auto = len(sizes), node.get("auto_pad", "NOTSET")
    wanted = node.get("output_shape")
    if wanted is None and auto.startswith("SAME"):
        wanted = [size * stride for size, stride in zip(sizes, strides, strict=True)]
    if wanted is None:
        pads = list(node.get("pads") or [0] * 2 * count) if auto == "NOTSET" else [0] * 2 * count
        return pads[:count], pads[count:]
    totals = [have - want for have, want in zip(full, list(wanted)[-count:], strict=True)]
    smaller = [max(total, 0) // 2 for total in totals]  # what is added comes at the end
    larger = [total - half for total, half in zip(totals, smaller, strict=True)]
    if auto == "SAME_UPPER" or min(totals) < 0:
        return smaller, larger
    return larger, smaller


OPERATORS: dict[str, TorchOp] = {"Conv": _conv, "ConvTranspose": _conv_transpose}
