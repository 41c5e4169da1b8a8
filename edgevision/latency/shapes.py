"""What the time of a network is made of: products of channel counts that follow from its widths.

A layer's work is (channels in) x (channels out) x a constant; reading its input and writing its
output take time by channels alone. Every channel count in the graph is an affine function of the
units that the groups keep, found by inferring the graph's shapes once with each group narrowed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx

from edgevision.export.graph import attribute
from edgevision.export.narrow import narrow_onnx
from edgevision.pruning.cost import WidthCost
from edgevision.quantization.placement import infer_shapes

Float64 = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
NO_DIM = -1


class Term(NamedTuple):
    """``dims[first] * dims[second]`` (or the first alone) of nodes that are alike.

    ``kind`` names operator, size of the output, kernel and stride, and what is multiplied: terms
    of one kind take the same time for each unit of it.
    """

    kind: str
    first: int
    second: int


class WidthShapes:
    """The terms of a network, as functions of the units that its groups keep.

    Args:
        model: the exported float network.
        cost: of its groups, in any order of units.
        widths: group → (all its units, the fewest that may stay).

    Raises:
        ModelError: the graph cannot be narrowed, or its shapes contradict each other then.
    """

    def __init__(
        self, model: onnx.ModelProto, cost: WidthCost, widths: Mapping[str, tuple[int, int]]
    ) -> None:
        self.groups = tuple(widths)
        self.units: Ints = np.array([units for units, _ in widths.values()], dtype=np.int64)
        self._model = model
        self._cost = cost
        whole = dimensions(model)
        names = sorted(whole)
        where = {place: index for index, place in enumerate(names)}
        self._whole: Float64 = np.array([whole[place] for place in names], dtype=np.float64)
        slopes = np.zeros((len(names), len(self.groups)))
        for column, (name, (units, least)) in enumerate(widths.items()):
            narrow = dimensions(self.narrowed({name: least}))
            lost = [whole[place] - narrow.get(place, whole[place]) for place in names]
            slopes[:, column] = np.array(lost) / (units - least)
        self._slopes = slopes
        moving = np.abs(slopes).max(axis=1, initial=0.0) > 0
        self.terms = tuple(
            term
            for term in terms_of(model, where)
            if moving[term.first] or (term.second != NO_DIM and moving[term.second])
        )
        self.kinds = tuple(sorted({term.kind for term in self.terms}))
        self._kind: Ints = np.array([self.kinds.index(term.kind) for term in self.terms], np.int64)

    def complete(self, kept: Mapping[str, int]) -> dict[str, int]:
        """Units of every group, in order: those in ``kept``, all where it has none."""
        return {
            name: kept.get(name, units)
            for name, units in zip(self.groups, self.units.tolist(), strict=True)
        }

    def narrowed(self, kept: Mapping[str, int]) -> onnx.ModelProto:
        """The network with ``kept`` units in each group; groups left out are whole."""
        return narrow_onnx(self._model, self._cost.layer_widths(self.complete(kept)))

    def amounts(self, kept: Ints, tile: int = 1) -> Float64:
        """float64 (B, kinds): the sum of all terms of a kind, for (B, groups) units kept.

        Channel counts above ``tile`` are rounded up to a multiple of it.
        """
        dims = self._whole - (self.units - kept) @ self._slopes.T
        dims = np.round(dims, 6)
        if tile > 1:
            dims = np.where(dims > tile, np.ceil(dims / tile) * tile, dims)
        columns: list[Float64] = [
            dims[:, term.first] * (dims[:, term.second] if term.second != NO_DIM else 1.0)
            for term in self.terms
        ]
        found = np.zeros((len(self.kinds), len(kept)))
        if columns:
            np.add.at(found, self._kind, np.stack(columns))
        amounts: Float64 = found.T
        return amounts


def dimensions(model: onnx.ModelProto) -> dict[tuple[str, int], int]:
    """(tensor, axis) → length, of activations and weights, free axes as 1."""
    found: dict[tuple[str, int], int] = {}
    for value in infer_shapes(model):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            found[value.name, axis] = dim.dim_value or 1
    for tensor in model.graph.initializer:
        for axis, length in enumerate(tensor.dims):
            found[tensor.name, axis] = length
    return found


def terms_of(model: onnx.ModelProto, where: Mapping[tuple[str, int], int]) -> list[Term]:
    """Every product of channel counts in ``model``; ``where`` numbers (tensor, axis)."""
    shapes: dict[str, list[int]] = {}
    for value in infer_shapes(model):
        shapes[value.name] = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
    weights = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    found: list[Term] = []
    for node in model.graph.node:
        output = node.output[0]
        shape = shapes.get(output, [])
        if len(shape) < 2:
            continue
        rows_last = node.op_type in ("Gemm", "MatMul") or len(shape) == 3
        channel = len(shape) - 1 if rows_last else 1
        places = prod(shape[1:]) // shape[channel]
        out = where[output, channel]
        weight = node.input[1] if len(node.input) > 1 else ""
        if node.op_type not in _LAYERS or weight not in weights:
            found.append(Term(f"{node.op_type} {places}", out, NO_DIM))
            continue
        kernel = "x".join(map(str, weights[weight][2:])) or "1"
        strides = attribute(node, "strides", [1])
        kind = f"{node.op_type} {places} {kernel}/{strides[0]}"
        groups = int(attribute(node, "group", 1))
        if groups > 1 and weights[weight][1] == 1:
            found.append(Term(f"{kind} depthwise", out, NO_DIM))
            continue
        inputs = shapes.get(node.input[0], [])
        axis = len(inputs) - 1 if rows_last else 1
        source = where[node.input[0], axis]
        kind += f" groups {groups}" if groups > 1 else ""
        found += [
            Term(f"{kind} products", out, source),
            Term(f"{kind} outputs", out, NO_DIM),
            Term(f"{kind} inputs", source, NO_DIM),
        ]
    return found


def sample_widths(allowed: Sequence[Sequence[int]], number: int, seed: int) -> Ints:
    """int64 (number, groups): widths to measure, the whole network first.

    Half of the others narrow all groups about alike, as a search ends up doing; half each group
    by itself, so that the groups' shares can be told apart.

    Args:
        allowed: for each group the units that may stay, the most first.
    """
    generator = np.random.default_rng(seed)
    rows = [[widths[0] for widths in allowed]]
    for index in range(1, number):
        level = generator.uniform(0.0, 1.0)
        spread = 0.15 if index % 2 else 1.0
        shares = np.clip(level + spread * generator.uniform(-1, 1, len(allowed)), 0.0, 1.0)
        if spread == 1.0:
            shares = generator.uniform(0.0, 1.0, len(allowed))
        rows.append(
            [
                widths[round(share * (len(widths) - 1))]
                for widths, share in zip(allowed, shares, strict=True)
            ]
        )
    return np.array(rows, dtype=np.int64)
