"""A network without its class: the operators of its forward as plain JSON beside the weights.

What ``torch.export`` sees of a network, written so that it loads without the network's code and
without running any: every node is a functional operator of ATen, every argument a number, a list or
an earlier node. Rebuilt, its parameters have their own names; the same operators in the same order
give the same bits; and it can be trained on. Batch norms and dropouts follow ``train()`` and
``eval()``. Other randomness of training (drop path) is not in it: it is traced for evaluation.
"""

from __future__ import annotations

import copy
import json
import math
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from edgevision.errors import ModelError

TRACED = "traced.json"
_VERSION = 1
_MAX_BYTES = 64 * 2**20
_OPERATORS = ("add", "sub", "mul", "floordiv", "truediv", "neg", "getitem")  # of sizes and tuples
_REFUSED = {"from_file"}  # it opens files; ATen's others compute on tensors
# Where an operator keeps its flag for training.
_TRAINING = {"aten.batch_norm.default": 5, "aten.dropout.default": 2}
_TYPES = {"dtype": torch.dtype, "layout": torch.layout, "memory_format": torch.memory_format}


class TracedNetwork(fx.GraphModule):
    """The network of ``document``, with zeros for weights until they are loaded.

    Takes one (N, C, H, W) tensor; gives what the network gave.

    Raises:
        ModelError: the document is damaged, or names what is no operator of ATen.
    """

    def __init__(self, document: dict[str, Any]) -> None:
        try:
            root, graph = nn.Module(), fx.Graph()
            for path, (role, dtype, content) in document["tensors"].items():
                kind = _named(dtype, torch.dtype)
                made = torch.tensor if role == "constant" else torch.zeros
                _put(root, path, made(content, dtype=kind), role)
            _read(document, graph)
            super().__init__(root, graph)
            for path, (kind, arguments) in document["layers"].items():
                self._name_layer(path, kind, arguments)
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(f"The traced network is damaged: {error!r}.") from error
        self.document = document

    def train(self, mode: bool = True) -> TracedNetwork:
        """Switch batch norms and dropouts as well."""
        super().train(mode)
        for node in self.graph.nodes:
            place = _TRAINING.get(str(node.target))
            if place is not None:
                node.update_arg(place, mode)
        self.recompile()
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> TracedNetwork:
        twin = TracedNetwork(self.document)
        twin.load_state_dict(copy.deepcopy(self.state_dict()))
        for mine, theirs in zip(self.parameters(), twin.parameters(), strict=True):
            theirs.requires_grad_(mine.requires_grad)
        memo[id(self)] = twin
        return twin.to(next(self.parameters()).device).train(self.training)

    def _name_layer(self, path: str, kind: str, arguments: dict[str, Any]) -> None:
        """Hold a layer's parameters in a layer of its class, which others look for."""
        held = self.get_submodule(path)
        layer = _LAYERS[kind](**arguments, device="meta")
        for name, parameter in held.named_parameters(recurse=False):
            layer.register_parameter(name, parameter)
        for name, buffer in held.named_buffers(recurse=False):
            layer.register_buffer(name, buffer)
        parent, _, own = path.rpartition(".")
        setattr(self.get_submodule(parent), own, layer)


def trace_network(module: nn.Module, example_shape: tuple[int, ...]) -> dict[str, Any]:
    """The document of ``module`` for :class:`TracedNetwork`, for any batch size.

    Args:
        example_shape: input shape (1, C, H, W).

    Raises:
        ModelError: it cannot be exported, or computes something else for another batch size.
    """
    work = copy.deepcopy(module).cpu().eval()
    images = torch.randn(2, *example_shape[1:], generator=torch.Generator().manual_seed(0))
    try:
        program = torch.export.export(
            work, (images,), dynamic_shapes=({0: torch.export.Dim.AUTO},), strict=False
        )
        document = _document(program, work)
        traced = TracedNetwork(document)
        traced.load_state_dict(work.state_dict())
        traced.eval()
        for batch in (images, torch.cat([images, images[:1]])):
            with torch.no_grad():
                if not torch.equal(traced(batch), work(batch)):
                    raise ModelError("The traced network computes something else.")
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"The network cannot be traced: {error}") from error
    return document


def read_traced(folder: Path) -> TracedNetwork | None:
    """The network that a checkpoint's folder holds besides its card; None where it holds none.

    Raises:
        ModelError: the file is too large or damaged.
    """
    path = folder / TRACED
    if not path.is_file():
        return None
    if path.stat().st_size > _MAX_BYTES:
        raise ModelError(f"{path} is larger than {_MAX_BYTES} bytes; refused.")
    try:
        document = json.loads(path.read_bytes())
    except ValueError as error:
        raise ModelError(f"{path} is damaged: {error}.") from error
    if not isinstance(document, dict) or document.get("version") != _VERSION:
        raise ModelError(
            f"{path} is not of version {_VERSION}.",
            hint="Load it with the release of edgevision that wrote it.",
        )
    return TracedNetwork(document)


def _document(program: torch.export.ExportedProgram, module: nn.Module) -> dict[str, Any]:
    signature = program.graph_signature
    paths = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    paths |= signature.inputs_to_lifted_tensor_constants
    if signature.buffers_to_mutate or signature.user_inputs_to_mutate:
        raise ModelError("The network's forward changes its own buffers.")
    own = dict(module.named_parameters(remove_duplicate=False))
    state = {**module.state_dict(keep_vars=True), **dict(module.named_buffers())}
    state |= {**own, **program.constants}
    stored = set(module.state_dict())
    tensors = {
        path: [
            "parameter" if path in own else "buffer" if path in stored else "constant",
            str(tensor.dtype).removeprefix("torch."),
            list(tensor.shape) if path in stored else tensor.tolist(),
        ]
        for path, tensor in state.items()
        if path in stored or path in paths.values()
    }
    nodes: list[dict[str, Any]] = []
    for node in program.graph.nodes:
        entry: dict[str, Any] = {"name": node.name}
        if node.op == "placeholder":
            path = paths.get(node.name)
            nodes.append(entry | ({"op": "tensor", "path": path} if path else {"op": "input"}))
        elif node.op == "output":
            values = list(node.args[0])
            value = values[0] if len(values) == 1 else values
            nodes.append(entry | {"op": "output", "value": _encoded(value)})
        else:
            entry["op"] = _function_name(node)
            entry["args"] = [_encoded(value) for value in node.args]
            entry["kwargs"] = {key: _encoded(value) for key, value in node.kwargs.items()}
            nodes.append(entry)
    return {
        "version": _VERSION,
        "torch": torch.__version__.partition("+")[0],
        "tensors": tensors,
        "layers": _layers(module, set(tensors)),
        "nodes": nodes,
    }


def _layers(module: nn.Module, tensors: set[str]) -> dict[str, list[Any]]:
    """Layers whose class others ask for: what a head is, which filters an optimizer takes."""
    found = {}
    for path, layer in module.named_modules():
        for kind, cls in _LAYERS.items():
            names = _ARGUMENTS[kind]
            if type(layer) is cls and f"{path}.weight" in tensors:
                arguments = {name: getattr(layer, name) for name in names}
                if "bias" in arguments:
                    arguments["bias"] = layer.bias is not None
                found[path] = [kind, arguments]
    return found


_LAYERS: dict[str, Any] = {
    "Conv2d": nn.Conv2d,
    "Linear": nn.Linear,
    "BatchNorm2d": nn.BatchNorm2d,
    "LayerNorm": nn.LayerNorm,
}
_ARGUMENTS = {
    "Conv2d": ("in_channels", "out_channels", "kernel_size", "stride", "groups", "bias"),
    "Linear": ("in_features", "out_features", "bias"),
    "BatchNorm2d": ("num_features",),
    "LayerNorm": ("normalized_shape",),
}


def _read(document: dict[str, Any], graph: fx.Graph) -> None:
    nodes: dict[str, fx.Node] = {}
    for entry in document["nodes"]:
        name, kind = entry["name"], entry["op"]
        if kind == "input":
            nodes[name] = graph.placeholder("images")
        elif kind == "tensor":
            nodes[name] = graph.get_attr(entry["path"])
        elif kind == "output":
            graph.output(_decoded(entry["value"], nodes))
        else:
            args = tuple(_decoded(value, nodes) for value in entry["args"])
            kwargs = {key: _decoded(value, nodes) for key, value in entry["kwargs"].items()}
            nodes[name] = graph.call_function(_function(kind), args, kwargs)
    graph.lint()


def _put(root: nn.Module, path: str, tensor: Tensor, role: str) -> None:
    *parents, own = path.split(".")
    for name in parents:
        if not hasattr(root, name):
            root.add_module(name, nn.Module())
        root = root.get_submodule(name)
    if role == "parameter":
        root.register_parameter(own, nn.Parameter(tensor, tensor.is_floating_point()))
    else:
        root.register_buffer(own, tensor, persistent=role == "buffer")


def _function(name: str) -> Callable[..., Any]:
    """The operator that a document may name.

    Raises:
        ModelError: it is none of ATen's on tensors, nor arithmetic on sizes.
    """
    space, _, rest = name.partition(".")
    if space == "operator" and rest in _OPERATORS:
        plain: Callable[..., Any] = getattr(operator, rest)
        return plain
    packet, _, overload = rest.partition(".")
    if space == "aten" and packet not in _REFUSED:
        found = getattr(getattr(torch.ops.aten, packet, None), overload, None)
        if isinstance(found, torch._ops.OpOverload):
            return found
    raise ModelError(f"The traced network uses '{name}', which may not run here.")


def _function_name(node: fx.Node) -> str:
    target = node.target
    name = (
        f"operator.{target.__name__}"
        if callable(target) and not isinstance(target, torch._ops.OpOverload)
        else str(target)
    )
    _function(name)
    return name


def _encoded(value: Any) -> Any:
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, list | tuple):
        return [_encoded(item) for item in value]
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


def _decoded(value: Any, nodes: dict[str, fx.Node]) -> Any:
    if isinstance(value, list):
        return [_decoded(item, nodes) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "node":
        return nodes[content]
    if kind == "float":
        return float(content)
    if kind == "device":
        return torch.device("cpu")
    return _named(content, _TYPES[kind])


def _named(name: str, kind: type) -> Any:
    found = getattr(torch, name, None)
    if not isinstance(found, kind):
        raise ModelError(f"The traced network names '{name}', which is no {kind.__name__}.")
    return found
