"""A network without its class: the operators of its forward as plain JSON beside the weights.

What ``torch.export`` sees of a network, written so that it loads without the network's code and
without making any: every node is an operator of ATen from those that only compute on tensors, every
argument a number, a list or an earlier node. They are called one by one, in order: the same
operators give the same bits. Parameters have their own names, in layers of their own class where
others look for it; batch norms run as those layers, so the network can be trained on. Randomness of
training other than dropout (drop path) is not in it: it is traced for evaluation.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from edgevision.errors import ModelError
from edgevision.models.traced_ops import (
    Value,
    check_arguments,
    decoded,
    encoded,
    filled,
    function,
    function_name,
    named,
    names_in,
)

TRACED = "traced.json"
_VERSION = 1
_MAX_BYTES = 64 * 2**20
_NORM, _DROPOUT = "aten.batch_norm.default", "aten.dropout.default"


class _Node(NamedTuple):
    name: str
    kind: str
    call: Callable[..., Any] | None
    args: Any
    kwargs: dict[str, Any]
    layer: str | None  # a batch norm's


class TracedNetwork(nn.Module):
    """The network of ``document``, with zeros for weights until they are loaded.

    Takes one (N, C, H, W) tensor; gives what the network gave. ``instead_of`` says why the class
    itself is not there.

    Raises:
        ModelError: the document is damaged, or names what is no such operator.
    """

    def __init__(self, document: dict[str, Any], instead_of: str = "") -> None:
        super().__init__()
        self.document, self.instead_of = document, instead_of
        try:
            for path, (role, dtype, content) in document["tensors"].items():
                kind = named(dtype, torch.dtype)
                made = _constant(content, kind) if role == "constant" else None
                _put(self, path, torch.zeros(content, dtype=kind) if made is None else made, role)
            for path, (kind, arguments) in document["layers"].items():
                self._name_layer(path, kind, arguments)
            self._nodes = [_read(entry) for entry in document["nodes"]]
            self._check()
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(f"The traced network is damaged: {error!r}.") from error

    def forward(self, images: Tensor) -> Any:
        """Call the operators one after the other.

        Raises:
            ModelError: one of them fails.
        """
        values: dict[str, Any] = {}
        for node, done in zip(self._nodes, self._done, strict=True):
            try:
                values[node.name] = self._value(node, values, images)
            except Exception as error:
                raise ModelError(f"The traced network fails at '{node.name}': {error}") from error
            for name in done:
                del values[name]
        return values[self._nodes[-1].name]

    def _value(self, node: _Node, values: dict[str, Any], images: Tensor) -> Any:
        if node.kind == "input":
            return images
        if node.kind == "tensor":
            return _at(self, node.args)
        args = filled(node.args, values, images)
        if node.kind == "output":
            return args
        if node.layer is not None:
            return self.get_submodule(node.layer)(args[0])
        if node.kind == _DROPOUT:
            return nn.functional.dropout(args[0], args[1], self.training)
        assert node.call is not None
        return node.call(*args, **filled(node.kwargs, values, images))

    def _check(self) -> None:
        """Every node reads earlier ones; note after which node each value is done with."""
        last: dict[str, int] = {}
        known: set[str] = set()
        for place, node in enumerate(self._nodes):
            for name in names_in([node.args, node.kwargs]):
                if name not in known:
                    raise ModelError(f"The traced network reads '{name}' before it is there.")
                last[name] = place
            if node.kind == "tensor":
                _at(self, node.args)
            known.add(node.name)
        if not self._nodes or self._nodes[-1].kind != "output":
            raise ModelError("The traced network has no output.")
        self._done: list[list[str]] = [[] for _ in self._nodes]
        for name, place in last.items():
            if place < len(self._nodes) - 1:
                self._done[place].append(name)
        layers = dict(self.named_modules())
        paths = {node.name: node.args for node in self._nodes if node.kind == "tensor"}
        self._nodes = [
            node._replace(layer=self._norm_of(node, layers, paths)) for node in self._nodes
        ]

    def _norm_of(
        self, node: _Node, layers: dict[str, nn.Module], paths: dict[str, Any]
    ) -> str | None:
        """The batch norm whose parameters and statistics the node reads."""
        if node.kind != _NORM:
            return None
        read = [paths.get(arg.name) for arg in node.args[1:5] if isinstance(arg, Value)]
        path = str(read[0]).rpartition(".")[0] if read else ""
        own = [f"{path}.{name}" for name in ("weight", "bias", "running_mean", "running_var")]
        layer = layers.get(path)
        return path if isinstance(layer, nn.BatchNorm2d) and read == own else None

    def _name_layer(self, path: str, kind: str, arguments: dict[str, Any]) -> None:
        """Hold a layer's parameters in a layer of its class, which others look for."""
        held = self.get_submodule(path)
        layer = _LAYERS[kind](**arguments, device="meta")
        for name, parameter in held.named_parameters(recurse=False):
            layer.register_parameter(name, parameter)
        for name, buffer in held.named_buffers(recurse=False):
            layer.register_buffer(name, buffer)
        for name, child in held.named_children():
            layer.add_module(name, child)
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
        if len(json.dumps(document)) > _MAX_BYTES:
            raise ModelError(f"The traced network is larger than {_MAX_BYTES} bytes.")
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


def read_traced(folder: Path, instead_of: str = "") -> TracedNetwork | None:
    """The network that a checkpoint's folder holds besides its card; None where it holds none.

    Args:
        instead_of: why its class is not there.

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
    return TracedNetwork(document, instead_of)


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
            list(tensor.shape) if path in stored else _written(path, tensor),
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
            nodes.append(entry | {"op": "output", "value": encoded(value)})
        else:
            entry["op"] = function_name(node)
            entry["args"] = [encoded(value) for value in node.args]
            entry["kwargs"] = {key: encoded(value) for key, value in node.kwargs.items()}
            nodes.append(entry)
    return {
        "version": _VERSION,
        "torch": torch.__version__.partition("+")[0],
        "tensors": tensors,
        "layers": _layers(module, set(tensors)),
        "nodes": nodes,
    }


def _written(path: str, tensor: Tensor) -> dict[str, Any]:
    if tensor.is_complex():
        raise ModelError(f"The constant '{path}' is complex.")
    return {"shape": list(tensor.shape), "values": encoded(tensor.flatten().tolist())}


def _constant(content: dict[str, Any], kind: torch.dtype) -> Tensor:
    return torch.tensor(decoded(content["values"]), dtype=kind).reshape(content["shape"])


def _layers(module: nn.Module, tensors: set[str]) -> dict[str, list[Any]]:
    """Layers whose class others ask for: heads, what an optimizer takes, batch norms."""
    found = {}
    for path, layer in module.named_modules():
        for kind, cls in _LAYERS.items():
            same = isinstance(layer, cls) if kind == "BatchNorm2d" else type(layer) is cls
            if same and f"{path}.weight" in tensors:
                arguments = {name: getattr(layer, name) for name in _ARGUMENTS[kind]}
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
_CONV = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
_ARGUMENTS = {
    "Conv2d": (*_CONV, "bias"),
    "Linear": ("in_features", "out_features", "bias"),
    "BatchNorm2d": ("num_features", "eps", "momentum"),
    "LayerNorm": ("normalized_shape", "eps"),
}


def _read(entry: dict[str, Any]) -> _Node:
    name, kind = str(entry["name"]), str(entry["op"])
    if kind == "input":
        return _Node(name, kind, None, None, {}, None)
    if kind == "tensor":
        return _Node(name, kind, None, str(entry["path"]), {}, None)
    if kind == "output":
        return _Node(name, kind, None, decoded(entry["value"]), {}, None)
    call = function(kind)
    kwargs = {key: decoded(value) for key, value in entry["kwargs"].items()}
    check_arguments(call, kwargs)
    return _Node(name, kind, call, tuple(decoded(entry["args"])), kwargs, None)


def _at(root: nn.Module, path: str) -> Any:
    """The parameter or buffer at ``path``."""
    parent, _, own = path.rpartition(".")
    owner = root.get_submodule(parent)
    found = owner._parameters.get(own)
    return owner._buffers[own] if found is None else found


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
