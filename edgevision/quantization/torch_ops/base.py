"""What a torch function for an ONNX operator is given: the node's attributes and its inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
from torch import Tensor

from edgevision.errors import ModelError


@dataclass(frozen=True)
class Node:
    """One ONNX node without its edges.

    Attributes:
        name: what messages call it.
        operator: e.g. ``"Conv"``.
        opset: version of the standard operators that the model imports.
        outputs: how many outputs are read or may be; unnamed ones at the end are not counted.
        attributes: as Python values; text is ``str``.
    """

    name: str
    operator: str
    opset: int
    outputs: int = 1
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, node: onnx.NodeProto, opset: int) -> Node:
        """``node`` of a model on ``opset``."""
        values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        attributes = {k: v.decode() if isinstance(v, bytes) else v for k, v in values.items()}
        outputs = max((i + 1 for i, name in enumerate(node.output) if name), default=0)
        return cls(node.name or node.output[0], node.op_type, opset, outputs, attributes)

    def get(self, name: str, default: Any = None) -> Any:
        """The attribute ``name``, ``default`` where it is absent."""
        return self.attributes.get(name, default)

    def refuse(self, why: str) -> ModelError:
        """The error that says that this form of the operator cannot be learned through."""
        return ModelError(
            f"Node '{self.name}' ({self.operator}) cannot be turned into torch: {why}.",
            hint="Quantize the model after training only, without learning.",
        )


Inputs = Sequence[Tensor | None]
TorchOp = Callable[[Node, Inputs], Tensor | tuple[Tensor, ...]]


def optional(inputs: Inputs, slot: int) -> Tensor | None:
    """The input at ``slot``, None where the node leaves it out."""
    return inputs[slot] if slot < len(inputs) else None


def required(inputs: Inputs, slot: int = 0) -> Tensor:
    """The input at ``slot``, which the operator's definition demands."""
    value = inputs[slot]
    assert value is not None, f"input {slot} is not optional"
    return value


def whole(tensor: Tensor) -> list[int]:
    """The integers in ``tensor``, of any shape, in a flat list."""
    return [int(value) for value in tensor.reshape(-1).tolist()]


def whole_input(node: Node, inputs: Inputs, slot: int, name: str) -> list[int] | None:
    """A list of integers that older opsets have as attribute ``name``, newer ones as an input."""
    tensor = optional(inputs, slot)
    if tensor is not None:
        return whole(tensor)
    given = node.get(name)
    return None if given is None else [int(value) for value in given]


def together(inputs: Inputs) -> list[Tensor]:
    """All inputs on one device: shapes and constants are on the CPU until they meet activations."""
    tensors = [tensor for tensor in inputs if tensor is not None]
    device = next((t.device for t in tensors if t.device.type != "cpu"), tensors[0].device)
    return [tensor.to(device) for tensor in tensors]
