"""The outside of a graph that others made: its image input, its outputs, its batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from edgevision.errors import ModelError
from edgevision.export.graph import Graph, attribute, set_initializer

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_COLOURS = (1, 3)


@dataclass(frozen=True)
class ImageInput:
    """The input that takes the image; None for an axis that the graph leaves free.

    ``layout`` says where the channels are; ``channels`` is 1 or 3.
    """

    name: str
    layout: Literal["NCHW", "NHWC"]
    batch: int | None
    channels: int
    height: int | None
    width: int | None

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) where the graph fixes both."""
        if self.height is None or self.width is None:
            return None
        return self.height, self.width


def find_image_input(model: onnx.ModelProto) -> ImageInput:
    """The one input of ``model``: float, four axes, 1 or 3 channels first or last.

    Inputs that have a default value, and those that nothing reads, do not count.

    Raises:
        ModelError: there is none, or there are others beside it; lists what there is.
    """
    graph = Graph(model)
    values = {value.name: value for value in model.graph.input}
    read = [n for n in graph.inputs if n in graph.uses or n in graph.captured | graph.outputs]
    found = {name: image for name in read if (image := _as_image(values[name], graph)) is not None}
    listed = "; ".join(describe(values[name]) for name in read) or "none"
    if not found:
        raise ModelError(
            "No input takes an image: expected float with four axes, 1 or 3 of them channels "
            f"(N, C, H, W) or (N, H, W, C); the inputs are: {listed}.",
            hint="Cut off what is not of the network, such as preprocessing of bytes."
            if any(len(_axes(values[n])) == 4 for n in read)
            else None,
        )
    if len(read) > 1:
        others = ", ".join(f"'{name}'" for name in read if name not in found) or "more images"
        raise ModelError(
            f"The model takes more than one image ({others}); expected one input, found: {listed}.",
            hint="Give the others as constants: export it again with their values inside.",
        )
    return next(iter(found.values()))


def keep_input(model: onnx.ModelProto, name: str) -> None:
    """Drop inputs that nothing reads; ONNX Runtime wants a value for each."""
    constants = {tensor.name for tensor in model.graph.initializer}
    for value in [v for v in model.graph.input if v.name not in (name, *constants)]:
        model.graph.input.remove(value)


def describe(value: onnx.ValueInfoProto) -> str:
    """An input or output in words, e.g. ``'x' float[N, 3, 224, 224]``."""
    if not value.type.HasField("tensor_type"):
        return f"'{value.name}' (no tensor)"
    kind = TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()
    return f"'{value.name}' {kind}[{', '.join(str(a or '?') for a in _axes(value))}]"


def _as_image(value: onnx.ValueInfoProto, graph: Graph) -> ImageInput | None:
    axes = _axes(value)
    if value.type.tensor_type.elem_type not in FLOATS or len(axes) != 4:
        return None
    batch, *rest = (axis if isinstance(axis, int) and axis > 0 else None for axis in axes)
    if rest[0] in _COLOURS:
        return ImageInput(value.name, "NCHW", batch, rest[0], rest[1], rest[2])
    if rest[0] is None and rest[2] not in _COLOURS:
        channels = _channels_of_first_conv(value.name, graph)
        return (
            ImageInput(value.name, "NCHW", batch, channels, rest[1], rest[2]) if channels else None
        )
    if rest[2] in _COLOURS:
        return ImageInput(value.name, "NHWC", batch, rest[2], rest[0], rest[1])
    return None


def _channels_of_first_conv(name: str, graph: Graph) -> int | None:
    for use in graph.uses.get(name, []):
        weight = graph.constant(use.node.input[1]) if use.node.op_type == "Conv" else None
        if weight is not None and weight.ndim == 4:
            channels = weight.shape[1] * attribute(use.node, "group", 1)
            return channels if channels in _COLOURS else None
    return None


def _axes(value: onnx.ValueInfoProto) -> list[int | str]:
    dims = value.type.tensor_type.shape.dim
    return [d.dim_value if d.HasField("dim_value") else d.dim_param for d in dims]


def channels_first(model: onnx.ModelProto, image: ImageInput) -> None:
    """Make the input (N, C, H, W): take the transposes behind it out, or put one in."""
    if image.layout == "NCHW":
        return
    graph = Graph(model)
    uses = graph.uses[image.name]
    undone = [
        use.node
        for use in uses
        if use.node.op_type == "Transpose" and list(attribute(use.node, "perm", [])) == [0, 3, 1, 2]
    ]
    if len(undone) == len(uses) and not any(n.output[0] in graph.outputs for n in undone):
        for node in undone:
            node.op_type = "Identity"
            del node.attribute[:]
        return
    name = graph.fresh_name(f"{image.name}_nhwc")
    for use in uses:
        use.node.input[use.slot] = name
    node = helper.make_node("Transpose", [image.name], [name], perm=[0, 2, 3, 1])
    model.graph.node.insert(0, node)


def set_input(model: onnx.ModelProto, old: str, new: str, shape: tuple[int | str, ...]) -> None:
    """Leave ``old`` as the one input, float32 of ``shape``, under the name ``new``."""
    _rename(model, old, new)
    del model.graph.input[:]
    model.graph.input.append(helper.make_tensor_value_info(new, TensorProto.FLOAT, shape))


def set_output(model: onnx.ModelProto, old: str, new: str) -> None:
    """Leave ``old`` as the one output, under the name ``new``."""
    kept = next(value for value in model.graph.output if value.name == old)
    copy = onnx.ValueInfoProto.FromString(kept.SerializeToString())
    del model.graph.output[:]
    model.graph.output.append(copy)
    _rename(model, old, new)


def _rename(model: onnx.ModelProto, old: str, new: str) -> None:
    if old == new:
        return
    graph = Graph(model)
    if old in graph.captured:
        raise ModelError(f"'{old}' is read inside a branch or loop; it cannot become '{new}'.")
    aside = graph.fresh_name(f"{new}_inner")
    for node in model.graph.node:
        for names in (node.input, node.output):
            for slot, name in enumerate(names):
                names[slot] = {old: new, new: aside}.get(name, name)
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        value.name = {old: new, new: aside}.get(value.name, value.name)
    for tensor in model.graph.initializer:
        tensor.name = {new: aside}.get(tensor.name, tensor.name)


def free_reshapes(model: onnx.ModelProto, batch: int) -> int:
    """Let reshapes to a constant shape that begins with ``batch`` take the batch that comes in.

    0 in a Reshape's shape copies the axis of its input. Right only where that axis is the batch,
    which the caller has to check by running.
    """
    graph = Graph(model)
    changed = 0
    for node in graph.nodes:
        shape = graph.constant(node.input[1]) if node.op_type == "Reshape" else None
        if shape is None or not shape.size or shape.reshape(-1)[0] != batch:
            continue
        if attribute(node, "allowzero", 0):
            if not shape.all():
                continue
            for item in [item for item in node.attribute if item.name == "allowzero"]:
                node.attribute.remove(item)  # without a 0 in the shape it says nothing
        name = graph.fresh_name(f"{node.output[0]}_shape_{changed}")
        set_initializer(model, name, np.array([0, *shape.reshape(-1)[1:]], np.int64))
        node.input[1] = name
        changed += 1
    return changed


def set_output_shapes(
    model: onnx.ModelProto, arrays: list[npt.NDArray[Any]], batch: int | str, ran: int
) -> None:
    """Write down the outputs' shapes as they came out of a run with ``ran`` images."""
    for value, array in zip(model.graph.output, arrays, strict=True):
        shape: list[int | str] = list(array.shape)
        if isinstance(batch, str) and shape and shape[0] == ran:
            shape[0] = batch
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        value.CopyFrom(helper.make_tensor_value_info(value.name, kind, shape))
