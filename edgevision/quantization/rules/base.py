"""What placement rules work with: a graph to look at and a plan to write down."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

import onnx
from onnx import TensorProto

from edgevision.export.graph import Graph, Use
from edgevision.quantization.schemes import Scheme


class Outcome(Enum):
    """What a rule decided for a node."""

    INT8 = "int8"  # the node's own inputs are quantized
    FOLLOWS = "follows"  # it runs in whatever precision its neighbours leave it


@dataclass(frozen=True)
class Refusal:
    """The node stays in float, and why."""

    reason: str


Slot = tuple[int, int]  # (position of the node in the graph, position among its inputs)


@dataclass
class Plan:
    """Where Q/DQ goes.

    Attributes:
        activations: tensor → the readings of it that go through Q/DQ.
        outputs: quantized tensors that are graph outputs and leave through Q/DQ as well.
        weights: reading of a constant → axis of its scales, None for one scale.
        biases: node position → position of its bias among its inputs, to be int32.
        scale_groups: sets of tensors that take one scale.
        outcomes: node position → what was decided.
    """

    activations: dict[str, set[Slot]] = field(default_factory=dict)
    outputs: set[str] = field(default_factory=set)
    weights: dict[Slot, int | None] = field(default_factory=dict)
    biases: dict[int, int] = field(default_factory=dict)
    scale_groups: list[set[str]] = field(default_factory=list)
    outcomes: dict[int, Outcome | Refusal] = field(default_factory=dict)

    def scale_group(self, name: str) -> set[str]:
        """All tensors that share a scale with ``name``, itself among them."""
        return next((group for group in self.scale_groups if name in group), {name})


class Placer:
    """The graph, the scheme and the growing plan, as a rule sees them."""

    def __init__(self, graph: Graph, scheme: Scheme, float32: set[str]) -> None:
        self.graph = graph
        self.scheme = scheme
        self.plan = Plan()
        self._float32 = float32
        self._positions = {id(node): i for i, node in enumerate(graph.nodes)}

    def position(self, node: onnx.NodeProto) -> int:
        """Where ``node`` stands in the graph."""
        return self._positions[id(node)]

    def is_float32(self, name: str) -> bool:
        """Whether ``name`` is known to be a float32 tensor."""
        tensor = self.graph.initializers.get(name)
        if tensor is not None:
            return bool(tensor.data_type == TensorProto.FLOAT)
        return name in self._float32

    def is_constant(self, name: str) -> bool:
        """Whether ``name`` is an initializer."""
        return name in self.graph.initializers

    def has_constant(self, node: onnx.NodeProto) -> bool:
        """Whether one of the first two inputs of ``node`` is an initializer."""
        return any(map(self.is_constant, node.input[:2]))

    def quantize_input(self, node: onnx.NodeProto, slot: int) -> None:
        """Route this one reading of an activation through Q/DQ."""
        self._route(node.input[slot], [Use(node, slot)])

    def quantize_output(self, node: onnx.NodeProto) -> None:
        """Route all that ``node`` computes, behind its fused activation, through Q/DQ."""
        self.quantize_tensor(self.tail(node))

    def quantize_tensor(self, name: str) -> None:
        """Route every reading of ``name`` through Q/DQ."""
        self._route(name, self.graph.uses.get(name, []))
        if name in self.graph.outputs:
            self.plan.outputs.add(name)

    def quantize_weight(self, node: onnx.NodeProto, slot: int, axis: int | None) -> None:
        """Store this constant as int8; ``axis`` of its scales where the scheme has several."""
        per_channel = axis if self.scheme.weight.per_channel else None
        self.plan.weights[(self.position(node), slot)] = per_channel

    def quantize_bias(self, node: onnx.NodeProto, slot: int) -> None:
        """Store this bias as int32, with the scale of input times weight."""
        self.plan.biases[self.position(node)] = slot

    def share_scale(self, names: Iterable[str]) -> None:
        """Give all ``names``, and what they already share with others, one scale."""
        merged = set(names)
        apart = []
        for group in self.plan.scale_groups:
            if group & merged:
                merged |= group
            else:
                apart.append(group)
        self.plan.scale_groups = [*apart, merged]

    def is_quantized(self, name: str) -> bool:
        """Whether every reading of ``name`` goes through Q/DQ already."""
        routed = self.plan.activations.get(name, set())
        uses = {(self.position(u.node), u.slot) for u in self.graph.uses.get(name, [])}
        return bool(uses) and uses <= routed

    def feeds_integers(self, name: str) -> bool:
        """Whether a layer with weights reads ``name``, at once or behind operators that follow."""
        seen = {name}
        waiting = [name]
        while waiting:
            for use in self.graph.uses.get(waiting.pop(), []):
                rule = self.scheme.rules.get(use.node.op_type)
                constant = self.has_constant(use.node)
                if rule == "weighted" or (rule == "constant_weighted" and constant):
                    return True
                behind = set(use.node.output) - seen
                if rule is not None and not constant:
                    seen |= behind
                    waiting += behind
        return False

    def quantize_result(self, node: onnx.NodeProto) -> None:
        """Quantize the output of ``node`` where the scheme wants that of its operator."""
        scheme = self.scheme
        between = node.op_type in scheme.quantized_between and self.leads_to_integers(node)
        if between or node.op_type in scheme.quantized_outputs:
            self.quantize_output(node)

    def leads_to_integers(self, node: onnx.NodeProto) -> bool:
        """Whether all that reads ``node``, behind its fused activation, may run on integers.

        And a layer with weights is among it, at once or further on.
        """
        name = self.tail(node)
        uses = self.graph.uses.get(name, [])
        known = all(self._takes_integers(use.node) for use in uses)
        return known and name not in self.graph.outputs and self.feeds_integers(name)

    def _takes_integers(self, node: onnx.NodeProto) -> bool:
        rule = self.scheme.rules.get(node.op_type)
        # An activation that is not the layer's tail would be cut off from it by a pair.
        return (
            rule is not None
            and node.op_type not in self.scheme.fused_activations
            and (rule != "constant_weighted" or self.has_constant(node))
        )

    def tail(self, node: onnx.NodeProto) -> str:
        """The tensor behind ``node`` and the activation that is fused into it."""
        name = node.output[0]
        reader = self.graph.only_reader(name)
        if reader is not None and reader.op_type in self.scheme.fused_activations:
            return str(reader.output[0])
        return str(name)

    def _route(self, name: str, uses: Iterable[Use]) -> None:
        routed = self.plan.activations.setdefault(name, set())
        routed |= {(self.position(use.node), use.slot) for use in uses}


class Rule(Protocol):
    """Decides for one node; writes what it wants into ``placer.plan`` unless it refuses."""

    def __call__(self, node: onnx.NodeProto, placer: Placer) -> Outcome | Refusal: ...
