"""What a traced network may call, and its arguments as JSON."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from edgevision.errors import ModelError

_OPERATORS = ("add", "sub", "mul", "floordiv", "truediv", "neg", "getitem")  # of sizes and tuples
_TYPES = {"dtype": torch.dtype, "layout": torch.layout, "memory_format": torch.memory_format}
# Of ATen's operators only those that compute on tensors alone: nothing that opens files, looks at
# memory that was never written, reinterprets it, or belongs to one library or device.
_REFUSED = [
    "cuda",
    "cudnn",
    "data",
    "empty",
    "fbgemm",
    "file",
    "miopen",
    "mkldnn",
    "nested",
    "pin_",
    "quantize",
    "resize",
    "save",
    "set_",
    "sparse",
    "storage",
    "stream",
    "strided",
]
_UNDERSCORED = ["_log_softmax", "_softmax", "_to_copy", "_unsafe_view"]
_IN_PLACE = [
    "add_",
    "clamp_",
    "clamp_max_",
    "clamp_min_",
    "div_",
    "elu_",
    "fill_",
    "gelu_",
    "hardsigmoid_",
    "hardswish_",
    "hardtanh_",
    "leaky_relu_",
    "masked_fill_",
    "mish_",
    "mul_",
    "relu6_",
    "relu_",
    "sigmoid_",
    "silu_",
    "squeeze_",
    "sub_",
    "tanh_",
    "unsqueeze_",
]
_TEXTS = ("approximate", "mode", "rounding_mode", "equation", "indexing", "padding")


class Value(NamedTuple):
    """An earlier node, as an argument."""

    name: str


class ImagesDevice:
    """Stands for the device of the images, as an argument."""


def function(name: str) -> Callable[..., Any]:
    """The operator that a document may name.

    Raises:
        ModelError: it is none of those of ATen that only compute, nor arithmetic on sizes.
    """
    space, _, rest = name.partition(".")
    if space == "operator" and rest in _OPERATORS:
        plain: Callable[..., Any] = getattr(operator, rest)
        return plain
    packet, _, overload = rest.partition(".")
    if space == "aten" and _computes(packet):
        found = getattr(getattr(torch.ops.aten, packet, None), overload, None)
        if isinstance(found, torch._ops.OpOverload) and _takes_values(found, packet):
            return found
    raise ModelError(f"The traced network uses '{name}', which may not run here.")


def _computes(packet: str) -> bool:
    if packet.startswith("_") and packet not in _UNDERSCORED:
        return False
    return not any(part in packet for part in _REFUSED)


def _takes_values(found: Any, packet: str) -> bool:
    """Whether it changes nothing but what it is known to, and takes no texts but known ones."""
    schema = found._schema
    if schema.is_mutable and packet not in _IN_PLACE:
        return False
    texts = [item.name for item in schema.arguments if "str" in str(item.type)]
    return all(name in _TEXTS for name in texts)


def check_arguments(call: Callable[..., Any], names: Iterable[str]) -> None:
    """Raise ModelError unless the operator takes keywords of these ``names``."""
    schema = getattr(call, "_schema", None)
    known = {item.name for item in schema.arguments} if schema is not None else set()
    unknown = set(names) - known
    if unknown:
        raise ModelError(f"The traced network gives '{call}' an argument {min(unknown)!r}.")


def function_name(node: fx.Node) -> str:
    """What the document calls the operator of ``node``; it may run, else ModelError."""
    target = node.target
    name = (
        f"operator.{target.__name__}"
        if callable(target) and not isinstance(target, torch._ops.OpOverload)
        else str(target)
    )
    function(name)
    return name


def encoded(value: Any) -> Any:
    """An argument of a traced node as JSON; ModelError for one that has no form there."""
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, list | tuple):
        return [encoded(item) for item in value]
    if isinstance(value, torch.device):
        return {"device": value.type}
    for kind, cls in _TYPES.items():
        if isinstance(value, cls):
            return {kind: str(value).removeprefix("torch.")}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ModelError(f"The network has an argument of type {type(value).__name__}.")


def decoded(value: Any) -> Any:
    """The argument that :func:`encoded` wrote, earlier nodes as :class:`Value`."""
    if isinstance(value, list):
        return [decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "node":
        return Value(str(content))
    if kind == "float":
        return float(content)
    if kind == "device":
        return ImagesDevice
    return named(content, _TYPES[kind])


def filled(value: Any, values: dict[str, Any], images: Tensor) -> Any:
    """``value`` with earlier nodes and the device put in."""
    if isinstance(value, Value):
        return values[value.name]
    if isinstance(value, list | tuple):
        return type(value)(filled(item, values, images) for item in value)
    if isinstance(value, dict):
        return {key: filled(item, values, images) for key, item in value.items()}
    return images.device if value is ImagesDevice else value


def names_in(value: Any) -> list[str]:
    """Earlier nodes that ``value`` reads."""
    if isinstance(value, Value):
        return [value.name]
    items = value.values() if isinstance(value, dict) else value
    if not isinstance(value, list | tuple | dict):
        return []
    return [name for item in items for name in names_in(item)]


def named(name: str, kind: type) -> Any:
    """torch's dtype, layout or memory format of that name; ModelError where there is none."""
    found = getattr(torch, name, None)
    if not isinstance(found, kind):
        raise ModelError(f"The traced network names '{name}', which is no {kind.__name__}.")
    return found
