"""Operators that move values about, and those that compute with shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor

from edgevision.quantization.torch_ops.base import (
    Inputs,
    Node,
    TorchOp,
    optional,
    required,
    together,
    whole,
    whole_input,
)

_PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def _reshape(node: Node, inputs: Inputs) -> Tensor:
    value = required(inputs)
    wanted = whole(required(inputs, 1))
    if not node.get("allowzero", 0):
        wanted = [value.shape[i] if size == 0 else size for i, size in enumerate(wanted)]
    return value.reshape(wanted)


def _flatten(node: Node, inputs: Inputs) -> Tensor:
    value, axis = required(inputs), node.get("axis", 1)
    axis = axis + value.ndim if axis < 0 else axis
    return value.reshape(int(np.prod(value.shape[:axis], dtype=np.int64)), -1)


def _transpose(node: Node, inputs: Inputs) -> Tensor:
    value = required(inputs)
    return value.permute(*node.get("perm", reversed(range(value.ndim))))


def _squeeze(node: Node, inputs: Inputs) -> Tensor:
    value = required(inputs)
    axes = whole_input(node, inputs, 1, "axes")
    return value.squeeze() if axes is None else value.squeeze(tuple(axes))


def _unsqueeze(node: Node, inputs: Inputs) -> Tensor:
    value = required(inputs)
    axes = whole_input(node, inputs, 1, "axes") or []
    rank = value.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        value = value.unsqueeze(axis)
    return value


def _concat(node: Node, inputs: Inputs) -> Tensor:
    return torch.cat(together(inputs), node.get("axis"))


def _split(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    value, axis = required(inputs), node.get("axis", 0)
    sizes = whole_input(node, inputs, 1, "split")
    if sizes is None:
        parts = node.get("num_outputs", node.outputs)
        each = -(-value.shape[axis] // parts)
        sizes = [each] * (parts - 1)
        sizes.append(value.shape[axis] - sum(sizes))
    return torch.split(value, sizes, axis)


def _slice(node: Node, inputs: Inputs) -> Tensor:
    value = required(inputs)
    starts, ends = whole(required(inputs, 1)), whole(required(inputs, 2))
    axes_given, steps_given = optional(inputs, 3), optional(inputs, 4)
    axes = list(range(len(starts))) if axes_given is None else whole(axes_given)
    steps = [1] * len(starts) if steps_given is None else whole(steps_given)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        taken = range(value.shape[axis])[start:end:step]
        if step > 0:
            inside = slice(taken.start, taken.stop, step)
            value = value[(slice(None),) * (axis % value.ndim) + (inside,)]
        else:
            value = value.index_select(axis, torch.tensor(list(taken), device=value.device).long())
    return value


def _gather(node: Node, inputs: Inputs) -> Tensor:
    value, indices = required(inputs), required(inputs, 1)
    axis = node.get("axis", 0) % value.ndim
    indices = indices.to(value.device).long()
    indices = torch.where(indices < 0, indices + value.shape[axis], indices)
    taken = value.index_select(axis, indices.reshape(-1))
    return taken.reshape(*value.shape[:axis], *indices.shape, *value.shape[axis + 1 :])


def _gather_elements(node: Node, inputs: Inputs) -> Tensor:
    value, axis = required(inputs), node.get("axis", 0)
    indices = required(inputs, 1).to(value.device).long()
    return value.gather(axis, torch.where(indices < 0, indices + value.shape[axis], indices))


def _gather_nd(node: Node, inputs: Inputs) -> Tensor:
    value, indices = required(inputs), required(inputs, 1)
    indices = indices.to(value.device).long()
    batch = node.get("batch_dims", 0)
    places = tuple(indices.unbind(-1))
    if batch:
        own = torch.meshgrid(
            *(torch.arange(size, device=value.device) for size in value.shape[:batch]),
            indexing="ij",
        )
        more = indices.ndim - 1 - batch
        places = (*(grid.reshape(*grid.shape, *[1] * more) for grid in own), *places)
    return value[places]


def _expand(node: Node, inputs: Inputs) -> Tensor:
    value = required(inputs)
    wanted = whole(required(inputs, 1))
    return value.expand(np.broadcast_shapes(tuple(value.shape), tuple(wanted)))


def _tile(node: Node, inputs: Inputs) -> Tensor:
    return required(inputs).repeat(*whole(required(inputs, 1)))


def _pad(node: Node, inputs: Inputs) -> Tensor:
    value = required(inputs)
    widths = whole_input(node, inputs, 1, "pads") or []
    fill, axes_given = optional(inputs, 2), optional(inputs, 3)
    axes = list(range(value.ndim)) if axes_given is None else whole(axes_given)
    pairs = [(0, 0)] * value.ndim
    for place, axis in enumerate(axes):
        pairs[axis % value.ndim] = (widths[place], widths[place + len(axes)])
    mode = _PAD_MODES.get(node.get("mode", "constant"))
    if mode is None:
        raise node.refuse(f"mode {node.get('mode')} is unknown")
    if mode == "constant":
        flat = [width for pair in reversed(pairs) for width in pair]
        number = 0 if fill is None else fill.item()
        return F.pad(value, flat, value=number)
    for axis, (begin, end) in enumerate(pairs):
        # One axis at a time: torch knows these modes for the last axes only.
        if begin or end:
            moved = value.movedim(axis, -1)
            rows = moved.reshape(1, -1, moved.shape[-1])
            padded = F.pad(rows.to(torch.float64), [begin, end], mode=mode).to(value.dtype)
            value = padded.reshape(*moved.shape[:-1], -1).movedim(-1, axis)
    return value


def _shape(node: Node, inputs: Inputs) -> Tensor:
    sizes = list(required(inputs).shape)[node.get("start", 0) : node.get("end", None)]
    return torch.tensor(sizes, dtype=torch.int64)


def _size(node: Node, inputs: Inputs) -> Tensor:
    return torch.tensor(required(inputs).numel(), dtype=torch.int64)


def _constant(node: Node, inputs: Inputs) -> Tensor:
    given = node.attributes
    if "value" in given:
        return from_proto(given["value"])
    for name, dtype in (("float", torch.float32), ("int", torch.int64)):
        for key in (f"value_{name}", f"value_{name}s"):
            if key in given:
                return torch.tensor(given[key], dtype=dtype)
    raise node.refuse("its value is neither a tensor nor numbers")


def _constant_of_shape(node: Node, inputs: Inputs) -> Tensor:
    shape, filled = whole(required(inputs)), node.get("value")
    value = torch.zeros(1) if filled is None else from_proto(filled)
    return value.reshape(()).expand(shape).clone()


def from_proto(tensor: onnx.TensorProto) -> Tensor:
    """An ONNX tensor as a torch tensor on the CPU."""
    array: Any = onnx.numpy_helper.to_array(tensor)
    return torch.from_numpy(np.array(array))


def _range(node: Node, inputs: Inputs) -> Tensor:
    start, limit, step = (required(inputs, slot) for slot in range(3))
    return torch.arange(start.item(), limit.item(), step.item(), dtype=start.dtype)


def _depth_to_space(node: Node, inputs: Inputs) -> Tensor:
    value, block = required(inputs), node.get("blocksize")
    if node.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(value, block)
    batch, channels, height, width = value.shape
    inner = channels // block**2
    split = value.reshape(batch, block, block, inner, height, width)
    moved = split.permute(0, 3, 4, 1, 5, 2)
    return moved.reshape(batch, inner, height * block, width * block)


def _space_to_depth(node: Node, inputs: Inputs) -> Tensor:
    value, block = required(inputs), node.get("blocksize")
    if node.get("mode", "DCR") == "CRD":
        return F.pixel_unshuffle(value, block)
    batch, channels, height, width = value.shape
    split = value.reshape(batch, channels, height // block, block, width // block, block)
    moved = split.permute(0, 3, 5, 1, 2, 4)
    return moved.reshape(batch, channels * block**2, height // block, width // block)


OPERATORS: dict[str, TorchOp] = {
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
