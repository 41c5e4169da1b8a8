"""A float ONNX graph as a torch module: what learning after the export happens on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx
import torch
from torch import Tensor, nn

from edgevision.errors import ModelError
from edgevision.export.graph import Graph, opset_of, set_initializer
from edgevision.quantization.torch_ops import OPERATORS, Node, TorchOp
from edgevision.quantization.torch_ops.shape import from_proto

# Which inputs of an operator are weights or biases of a layer, to be trained.
_TRAINED = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (1, 2),
    "MatMul": (0, 1),
    "Add": (0, 1),  # bias behind a MatMul, position embedding
    "Mul": (0, 1),  # scale of a layer
    "BatchNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "RMSNormalization": (1,),
    "PRelu": (1,),
}


@dataclass(frozen=True)
class Step:
    """One node, ready to run.

    ``done_with`` are the tensors that no later node reads.
    """

    op: TorchOp
    node: Node
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    done_with: tuple[str, ...]


class TorchGraph(nn.Module):
    """The float graph of ``model``, which computes what ONNX Runtime computes, up to rounding.

    Weights and biases of layers are parameters; other float constants are buffers. Integer
    constants are shapes, axes and indices: they stay on the CPU.

    Raises:
        ModelError: an operator that there is no torch function for, or subgraphs.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        self.model = model
        self.graph = Graph(model)
        self.constants: dict[str, Tensor] = {}
        self.parameter_places: dict[str, int] = {}  # by ONNX name, in ``trained``
        self.buffer_names: dict[str, str] = {}
        self.trained = nn.ParameterList()
        self.steps = _steps(self.graph, opset_of(model))
        wanted = _trained(self.graph)
        for name, proto in self.graph.initializers.items():
            tensor = from_proto(proto)
            if name in wanted:
                self.parameter_places[name] = len(self.trained)
                self.trained.append(nn.Parameter(tensor))
            elif tensor.is_floating_point() and tensor.ndim:
                self.buffer_names[name] = f"constant{len(self.buffer_names)}"
                self.register_buffer(self.buffer_names[name], tensor)
            else:
                self.constants[name] = tensor

    def forward(
        self, images: Tensor | Mapping[str, Tensor], keep: Collection[str] = ()
    ) -> Tensor | tuple[Tensor, ...] | dict[str, Tensor]:
        """Run the graph.

        Args:
            images: the input, or all inputs by name.
            keep: tensors to return instead of the outputs.

        Returns:
            The output, a tuple where there are several, or what ``keep`` names as a dict.
        """
        values: dict[str, Tensor] = dict(self.named_values())
        if isinstance(images, Tensor):
            values[self.graph.inputs[0]] = images
        else:
            values |= images
        wanted = list(keep or (v.name for v in self.model.graph.output))
        missing = [name for name in self.graph.inputs if name not in values]
        if missing:
            raise ModelError(f"The graph wants the inputs {self.graph.inputs}, got no {missing}.")
        kept = {name: values[name] for name in wanted if name in values}
        left = {name for name in wanted if name not in values}
        for position, step in enumerate(self.steps):
            if not left:
                break
            inputs = [
                self.read(position, slot, name, values) if name else None
                for slot, name in enumerate(step.inputs)
            ]
            out = self.compute(position, step, inputs)
            for name, value in zip(step.outputs, out if isinstance(out, tuple) else (out,)):  # noqa: B905 - trailing outputs may be unnamed
                if name in left:
                    kept[name] = value
                    left.discard(name)
                values[name] = value
            for name in step.done_with:
                self.forget(name, values)
        if left:
            raise ModelError(f"The graph has no tensors {sorted(left)}.")
        if keep:
            return {name: kept[name] for name in wanted}
        leaving = tuple(self.leave(name, kept[name]) for name in wanted)
        return leaving[0] if len(leaving) == 1 else leaving

    def named_values(self) -> Mapping[str, Tensor]:
        """All constants by their ONNX names: parameters, buffers, and integers."""
        values: dict[str, Tensor] = dict(zip(self.parameter_places, self.trained, strict=True))
        buffers = {name: self.get_buffer(own) for name, own in self.buffer_names.items()}
        return {**values, **buffers, **self.constants}

    def parameter(self, name: str) -> nn.Parameter | None:
        """The parameter of the initializer ``name``, None where it is not trained."""
        place = self.parameter_places.get(name)
        if place is None:
            return None
        found: nn.Parameter = self.trained[place]
        return found

    def constant(self, name: str) -> Tensor:
        """What the initializer ``name`` is now."""
        parameter = self.parameter(name)
        if parameter is not None:
            return parameter
        if name in self.buffer_names:
            return self.get_buffer(self.buffer_names[name])
        return self.constants[name]

    def read(self, position: int, slot: int, name: str, values: dict[str, Tensor]) -> Tensor:
        """What the node at ``position`` gets as its input ``slot``."""
        return values[name]

    def compute(
        self, position: int, step: Step, inputs: list[Tensor | None]
    ) -> Tensor | tuple[Tensor, ...]:
        """What the node at ``position`` makes of its inputs."""
        return step.op(step.node, inputs)

    def leave(self, name: str, value: Tensor) -> Tensor:
        """What the graph gives as its output ``name``."""
        return value

    def forget(self, name: str, values: dict[str, Tensor]) -> None:
        """Drop a tensor that nobody reads any more."""
        values.pop(name, None)

    def to_onnx(self) -> onnx.ModelProto:
        """A copy of the model with the parameters as they are now."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        for name, parameter in zip(self.parameter_places, self.trained, strict=True):
            set_initializer(model, name, parameter.detach().cpu().contiguous().numpy())
        return model


def float_graph_of(model: onnx.ModelProto) -> TorchGraph:
    """``model`` as a frozen module, for a teacher or as the float reference."""
    graph = TorchGraph(model).eval()
    for parameter in graph.parameters():
        parameter.requires_grad_(False)
    return graph


def _steps(graph: Graph, opset: int) -> list[Step]:
    if graph.captured:
        raise ModelError(
            "The graph has subgraphs (If, Loop or Scan), which cannot be learned through."
        )
    last: dict[str, int] = {}
    for position, node in enumerate(graph.nodes):
        for name in [*node.input, *node.output]:
            last[name] = position
    ending: dict[int, list[str]] = {}
    for name, position in last.items():
        if name and name not in graph.initializers:
            ending.setdefault(position, []).append(name)
    steps = []
    for position, proto in enumerate(graph.nodes):
        node = Node.of(proto, opset)
        op = OPERATORS.get(proto.op_type) if proto.domain in ("", "ai.onnx") else None
        if op is None:
            raise node.refuse("there is no torch function for this operator")
        done = tuple(ending.get(position, ()))
        steps.append(Step(op, node, tuple(proto.input), tuple(proto.output), done))
    return steps


def _trained(graph: Graph) -> set[str]:
    """Initializers that are weights or biases wherever they are read."""
    names = set()
    for name, proto in graph.initializers.items():
        size = int(torch.Size(proto.dims).numel())
        if proto.data_type != onnx.TensorProto.FLOAT or size < 2:
            continue
        uses = graph.uses.get(name, [])
        if uses and all(use.slot in _TRAINED.get(use.node.op_type, ()) for use in uses):
            names.add(name)
    return names
