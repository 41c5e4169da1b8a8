"""How far a sliding window reaches over the borders: ``pads``, ``auto_pad`` and ``ceil_mode``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from edgevision.quantization.torch_ops.base import Node


@dataclass(frozen=True)
class Windows:
    """Size, steps and borders of the windows of one Conv or pooling, by spatial axis.

    ``ends`` are the borders that the model asks for, ``overhang`` what ``ceil_mode`` adds there.
    """

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    begins: list[int]
    ends: list[int]
    overhang: list[int]

    @property
    def symmetric(self) -> bool:
        """Whether torch's own ``padding`` can say it."""
        return self.begins == self.ends and not any(self.overhang)


def windows(node: Node, sizes: Sequence[int], kernel: Sequence[int]) -> Windows:
    """Read the attributes of ``node`` for an input of these spatial ``sizes``."""
    count = len(sizes)
    strides = list(node.get("strides") or [1] * count)
    dilations = list(node.get("dilations") or [1] * count)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    auto = node.get("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        totals = [
            max((-(-size // stride) - 1) * stride + span - size, 0)
            for size, stride, span in zip(sizes, strides, spans, strict=True)
        ]
        smaller = [total // 2 for total in totals]
        larger = [total - total // 2 for total in totals]
        begins, ends = (smaller, larger) if auto == "SAME_UPPER" else (larger, smaller)
    else:
        pads = list(node.get("pads") or [0] * 2 * count) if auto == "NOTSET" else [0] * 2 * count
        begins, ends = pads[:count], pads[count:]
    overhang = [0] * count
    if node.get("ceil_mode", 0):
        for axis in range(count):
            padded = sizes[axis] + begins[axis] + ends[axis]
            steps = -(-(padded - spans[axis]) // strides[axis])
            if steps * strides[axis] >= sizes[axis] + begins[axis]:
                steps -= 1  # the last window would hold nothing of the input
            overhang[axis] = max(steps * strides[axis] + spans[axis] - padded, 0)
    return Windows(list(kernel), strides, dilations, begins, ends, overhang)


def pad_spatial(
    value: Tensor, begins: Sequence[int], ends: Sequence[int], fill: float = 0.0
) -> Tensor:
    """Add borders to the last axes of ``value``; negative ones are cut off."""
    if not any(begins) and not any(ends):
        return value
    # torch wants the last axis first.
    pads = [width for pair in zip(reversed(begins), reversed(ends), strict=True) for width in pair]
    return F.pad(value, pads, value=fill)
