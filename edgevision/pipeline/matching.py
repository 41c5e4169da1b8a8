"""Which layer of a backend computes which node of the graph that it was given.

TensorRT lists the ONNX nodes of each layer. ONNX Runtime names what it makes after a node or a
tensor and decorates the name: ``Conv_1_token_23``, ``relu_1_nchwc``, ``hardswish_QuantizeLinear``.
What carries no such name runs between two that do, or inside the layer in front of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from edgevision.backends.onnx_file import OnnxNode
from edgevision.types import GATE, LayerInfo

_QDQ = ("QuantizeLinear", "DequantizeLinear")
_DECORATION = re.compile(r"(_token_\d+|_nchwc|_nhwc|_quant|_myl\d+_\d+|/\w*Fusion\w*/?)$")
_PREFIX = re.compile(r"^(fused )+")
_CONVERSION = re.compile(r"^(?P<tensor>.+)_(QuantizeLinear|DequantizeLinear|q|dq)$")
_MATRIX = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass
class Match:
    """Layers that compute a node, by their position in the backend's report.

    ``owned`` are those whose time counts as the node's; ``fused`` says that the node has no layer
    of its own and vanished into the one of a node in front.
    """

    layers: list[int] = field(default_factory=list)
    owned: list[int] = field(default_factory=list)
    fused: bool = False


def match_layers(nodes: Sequence[OnnxNode], layers: Sequence[LayerInfo]) -> dict[str, Match]:
    """Match the report ``layers`` with ``nodes``, those of the Q/DQ graph, by the nodes' names.

    Nodes that no layer can be found for are left out, and so are Q/DQ nodes.
    """
    return _Matching(nodes, layers).run()


def node_label(node: OnnxNode) -> str:
    """What reports call ``node``: its name, or that of its first output where it has none."""
    return node.name or node.outputs[0]


class _Matching:
    def __init__(self, nodes: Sequence[OnnxNode], layers: Sequence[LayerInfo]) -> None:
        self.layers = layers
        self.nodes = {node_label(n): n for n in nodes if n.operator not in _QDQ and n.outputs}
        self.known = dict(self.nodes)  # by every name that a backend may use
        self.known |= {f"node_of_{node.outputs[0]}": node for node in self.nodes.values()}
        for name in [name for name in self.nodes if name.endswith(GATE)]:
            # Part of the integer form of the node whose name it bears.
            if name.removesuffix(GATE) in self.nodes:
                self.known[name] = self.nodes[name.removesuffix(GATE)]
                del self.nodes[name]
        sources = {n.outputs[0]: n.inputs[0] for n in nodes if n.operator in _QDQ and n.inputs}
        made = {name: node for node in self.nodes.values() for name in node.outputs}
        self.makers: dict[str, OnnxNode] = {}  # tensor, float or behind Q/DQ → node
        for name in [*made, *sources]:
            origin = name
            while origin in sources and origin not in made:
                origin = sources[origin]
            if origin in made:
                self.makers[name] = made[origin]
                self.makers.setdefault(origin.removesuffix("_float"), made[origin])
        self.matches: dict[str, Match] = {}
        self.converted: set[str] = set()  # nodes whose output is turned into floats again

    def run(self) -> dict[str, Match]:
        pending: list[int] = []
        for index, layer in enumerate(self.layers):
            covered = self._covered(layer)
            if covered:
                self._add(index, covered)
                pending = []
                continue
            maker, operator = self._conversion(layer)
            if operator == "DequantizeLinear":
                if maker is not None:
                    self.converted.add(maker)
                pending = []
            elif operator == "QuantizeLinear":
                # What runs between two conversions and has no known name is what lies between.
                if maker is not None and maker not in self.matches and pending:
                    self.matches[maker] = Match(list(pending), list(pending))
                pending = []
            else:
                pending.append(index)
        self._align()
        for label, node in self.nodes.items():
            if label not in self.matches:
                self._follow(label, node)
        return self.matches

    def _covered(self, layer: LayerInfo) -> list[str]:
        listed = [node_label(self.known[name]) for name in layer.nodes if name in self.known]
        if listed:
            return list(dict.fromkeys(listed))
        if layer.operator in _QDQ:
            return []
        found = []
        for part in layer.name.split(" + "):
            stem, blocked = _undecorated(part)
            if blocked and stem in self.makers:
                found += self._chain(self.makers[stem], layer)
            elif stem in self.known:
                found.append(node_label(self.known[stem]))
        return found

    def _chain(self, node: OnnxNode, layer: LayerInfo) -> list[str]:
        """``node`` and those in front of it, back to the operator that the layer is named for."""
        chain = [node]
        while chain[-1].operator not in layer.operator and chain[-1].inputs:
            before = self.makers.get(chain[-1].inputs[0])
            if before is None or node_label(before) in self.matches:
                return [node_label(node)]
            chain.append(before)
        return [node_label(n) for n in reversed(chain)]

    def _conversion(self, layer: LayerInfo) -> tuple[str | None, str]:
        found = _CONVERSION.match(_undecorated(layer.name)[0])
        maker = self.makers.get(found["tensor"]) if found else None
        return (node_label(maker) if maker else None), layer.operator

    def _add(self, index: int, covered: list[str]) -> None:
        layer = self.layers[index]
        operators = {name: self.nodes[name].operator for name in covered}
        # A kernel that prepares the input of a Conv names that Conv too.
        same = [name for name in covered if operators[name] in layer.operator]
        free = [name for name in covered if operators[name] not in _MATRIX]
        owner = (same or free or covered)[0]
        for name in covered:
            match = self.matches.setdefault(name, Match())
            if name == owner:
                match.owned.append(index)
            if name in same:
                match.layers.insert(0, index)
            else:
                match.layers.append(index)

    def _align(self) -> None:
        """Nodes without a name, one after the other, with layers of their operator in that order.

        Only where there are as many of one as of the other.
        """
        taken = {i for match in self.matches.values() for i in match.layers}
        for operator in sorted({node.operator for node in self.nodes.values()}):
            names = [n for n, node in self.nodes.items() if node.operator == operator]
            names = [name for name in names if name not in self.matches]
            words = (operator, f"QLinear{operator}", f"Q{operator}")
            left = [
                i for i, la in enumerate(self.layers) if la.operator in words and i not in taken
            ]
            if len(names) == len(left):
                for name, index in zip(names, left, strict=True):
                    self.matches[name] = Match([index], [index])

    def _follow(self, label: str, node: OnnxNode) -> None:
        before = self.makers.get(node.inputs[0]) if node.inputs else None
        if node.operator in _MATRIX or before is None or node_label(before) in self.converted:
            return
        found = self.matches.get(node_label(before))
        if found is not None:
            self.matches[label] = Match(found.layers[:1], fused=True)


def _undecorated(name: str) -> tuple[str, bool]:
    """``name`` as it was before the backend added to it, and whether it was named by a tensor."""
    stem = _PREFIX.sub("", name.strip())
    blocked = False
    while found := _DECORATION.search(stem):
        blocked = blocked or "nchwc" in found[0]
        stem = stem[: found.start()]
    return stem, blocked
