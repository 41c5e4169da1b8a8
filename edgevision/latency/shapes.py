"""What the time of a network is made of: products of channel counts that follow from its widths.

A layer's work is (channels in) x (channels out) x a constant; reading its input and writing its
output take time by channels alone. Every channel count in the graph is an affine function of the
units that the groups keep, found by inferring the graph's shapes once with each group narrowed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx

from edgevision.errors import ModelError
from edgevision.export.graph import attribute
from edgevision.export.narrow import narrow_onnx
from edgevision.latency.names import image_nodes, take_names
from edgevision.pruning.cost import WidthCost
from edgevision.quantization.placement import infer_shapes
from edgevision.quantization.simulation import Float32, Simulator

Float64 = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
NO_DIM = -1
Narrow = Callable[[Mapping[str, int]], onnx.ModelProto]
Place = tuple[str, int]  # tensor, axis
Lost = Mapping[str, Mapping[Place, int]]


class Layer(NamedTuple):
    """A node with a channel axis, and where its channel counts are found.

    Attributes:
        name: torch's of a layer with weights, the node's of any other.
        kind: operator, positions of the output, kernel, stride, dilation, unusual padding and
            groups: layers of one kind take the same time at the same channel counts.
        operator: ONNX's.
        places: positions of the output, such as height times width, or tokens.
        read: positions of the input.
        kernel: of the weight, (1, 1) or () for a product of matrices.
        stride: along the first axis.
        groups: 1 for a dense layer; a depthwise one has as many as channels, and ``source`` none.
        out: number of the channel count of the output.
        source: that of the input; ``NO_DIM`` where it is no factor of the work.
        weighted: whether it has weights.
        dilation: of the kernel along each axis, as long as ``kernel``.
        padding: empty where each side has (kernel - 1) // 2 * dilation, else what it has.
        reads: parameters that it reads, by torch's names where they have kept them; no scalars.
    """

    name: str
    kind: str
    operator: str
    places: int
    read: int
    kernel: tuple[int, ...]
    stride: int
    groups: int
    out: int
    source: int
    weighted: bool
    dilation: tuple[int, ...] = ()
    padding: str = ""
    reads: tuple[str, ...] = ()

    @property
    def terms(self) -> list[Term]:
        """What its time is made of."""
        if self.source == NO_DIM:
            return [Term(self.kind, self.out, NO_DIM)]
        return [
            Term(f"{self.kind} products", self.out, self.source),
            Term(f"{self.kind} outputs", self.out, NO_DIM),
            Term(f"{self.kind} inputs", self.source, NO_DIM),
        ]


class Term(NamedTuple):
    """``dims[first] * dims[second]`` (or the first alone) of nodes that are alike.

    ``kind`` names operator, size of the output, kernel and stride, and what is multiplied: terms
    of one kind take the same time for each unit of it.
    """

    kind: str
    first: int
    second: int


class WidthShapes:
    """The layers and terms of a network, as functions of the units that its groups keep.

    ``moves`` says of every number that a layer or term has whether it depends on widths.

    Args:
        model: the exported float network.
        cost: of its groups, in any order of units.
        widths: group → (all its units, the fewest that may stay).
        narrow: from the units that every group keeps to the narrower graph, whose tensors may have
            other names; None where ``model`` can be narrowed in place, see
            :func:`narrows_in_place`.
        lost: of an earlier one of the same network, so that nothing has to be narrowed for it.

    Attributes:
        lost: group → what its narrowest width takes from each length, by (tensor, axis).

    Raises:
        ModelError: the graph cannot be narrowed, its shapes contradict each other then, or
            ``narrow`` gives other operators.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        cost: WidthCost,
        widths: Mapping[str, tuple[int, int]],
        narrow: Narrow | None = None,
        lost: Lost | None = None,
    ) -> None:
        self.groups = tuple(widths)
        self.units: Ints = np.array([units for units, _ in widths.values()], dtype=np.int64)
        self._model, self._cost, self._anew = model, cost, narrow
        whole = dimensions(model)
        names = sorted(whole)
        where = {place: index for index, place in enumerate(names)}
        self._whole: Float64 = np.array([whole[place] for place in names], dtype=np.float64)
        self.lost = lost or {
            name: self._lost(whole, name, least) for name, (_, least) in widths.items()
        }
        slopes = np.zeros((len(names), len(self.groups)))
        for column, (name, (units, least)) in enumerate(widths.items()):
            taken = [self.lost[name].get(place, 0) for place in names]
            slopes[:, column] = np.array(taken) / (units - least)
        self._slopes = slopes
        self.moves: npt.NDArray[np.bool_] = np.abs(slopes).max(axis=1, initial=0.0) > 0
        moving = self.moves
        self.layers = layers_of(model, where, moving)
        found = [
            (term, number)
            for number, layer in enumerate(self.layers)
            for term in layer.terms
            if moving[term.first] or (term.second != NO_DIM and moving[term.second])
        ]
        self.terms = tuple(term for term, _ in found)
        self.layer_of_term: Ints = np.array([number for _, number in found], np.int64)
        self.kinds = tuple(sorted({term.kind for term in self.terms}))
        self._kind: Ints = np.array([self.kinds.index(term.kind) for term in self.terms], np.int64)

    def _lost(self, whole: Mapping[Place, int], group: str, least: int) -> dict[Place, int]:
        fewer = dimensions(self.narrowed({group: least}))
        gone = sorted(whole.keys() - fewer.keys())
        if gone and self._anew is not None:
            name, axis = gone[0]
            raise ModelError(
                f"Narrowed at '{group}', tensor '{name}' of the exported graph has no axis {axis} "
                "any more, so what its time is made of cannot be told."
            )
        both = whole.keys() & fewer.keys()
        return {
            place: whole[place] - fewer[place] for place in both if whole[place] != fewer[place]
        }

    def complete(self, kept: Mapping[str, int]) -> dict[str, int]:
        """Units of every group, in order: those in ``kept``, all where it has none."""
        return {
            name: kept.get(name, units)
            for name, units in zip(self.groups, self.units.tolist(), strict=True)
        }

    def narrowed(self, kept: Mapping[str, int]) -> onnx.ModelProto:
        """The network with ``kept`` units in each group; groups left out are whole.

        Its activations have the names of the whole network's.
        """
        units = self.complete(kept)
        if self._anew is None:
            return narrow_onnx(self._model, self._cost.layer_widths(units))
        full = self.complete({})
        narrower = [name for name, left in units.items() if left < full[name]]
        if not narrower:
            whole = onnx.ModelProto()
            whole.CopyFrom(self._model)
            return whole
        narrow = self._anew(units)
        take_names(narrow, self._model, narrower)
        return narrow

    def layers_inside(self, block: str, shape: Sequence[int]) -> list[int]:
        """Positions in ``layers`` of what a block does, which runs in one go.

        It begins and ends with what reads its parameters. What reads none behind it is its own as
        well, as long as that has the positions of its output: an addition, an activation. In a row
        of alike blocks each then has its own, or the like of it.

        Args:
            block: torch's name of it.
            shape: of its output for one image, the batch first.
        """
        places = {prod(shape) // length for length in shape[1:]}
        readers = Counter(name for layer in self.layers for name in layer.reads)
        own = [
            n
            for n, layer in enumerate(self.layers)
            if any(name.startswith(f"{block}.") and readers[name] == 1 for name in layer.reads)
        ]
        if not own:
            return []
        end = own[-1] + 1
        while end < len(self.layers):
            behind = self.layers[end]
            if behind.reads or behind.places not in places:
                break
            end += 1
        return list(range(own[0], end))

    def amounts(self, kept: Ints, tile: int = 1) -> Float64:
        """float64 (B, kinds): the sum of all terms of a kind, for (B, groups) units kept.

        Channel counts above ``tile`` are rounded up to a multiple of it.
        """
        found = np.zeros((len(self.kinds), len(kept)))
        np.add.at(found, self._kind, self.products(kept, tile))
        amounts: Float64 = found.T
        return amounts

    def products(self, kept: Ints, tile: int = 1) -> Float64:
        """float64 (terms, B): each term by itself, for (B, groups) units kept."""
        dims = self.channels(kept, tile)
        columns = [
            dims[:, term.first] * (dims[:, term.second] if term.second != NO_DIM else 1.0)
            for term in self.terms
        ]
        return np.stack(columns) if columns else np.zeros((0, len(kept)))

    def channels(self, kept: Ints, tile: int = 1) -> Float64:
        """float64 (B, dims): every length that a layer or term numbers, at (B, groups) units kept.

        Those above ``tile`` are rounded up to a multiple of it.
        """
        dims: Float64 = np.round(self._whole - (self.units - kept) @ self._slopes.T, 6)
        return padded(dims, tile)

    @property
    def kind_of_term(self) -> Ints:
        """int64 (terms,): position of each term's kind in ``kinds``."""
        return self._kind


def narrows_in_place(
    model: onnx.ModelProto, cost: WidthCost, widths: Mapping[str, tuple[int, int]], image: Float32
) -> bool:
    """Whether ``model`` still runs when each layer's weights alone are cut to the fewest units.

    It does not where widths stand in the graph itself, as in a reshape to heads or a split.

    Args:
        widths: group → (all its units, the fewest that may stay).
        image: (1, C, H, W).
    """
    least = {name: fewest for name, (_, fewest) in widths.items()}
    outputs = [value.name for value in model.graph.output]
    try:
        narrow = narrow_onnx(model, cost.layer_widths(least))
        next(iter(Simulator(narrow, outputs)(image)))
    except ModelError:
        return False
    return True


def dimensions(model: onnx.ModelProto) -> dict[Place, int]:
    """(tensor, axis) → length, of all that depends on the image, free axes as 1."""
    varies = {value.name for value in model.graph.input}
    varies.update(name for node in image_nodes(model) for name in node.output)
    found: dict[Place, int] = {}
    for value in infer_shapes(model):
        if value.name in varies:
            for axis, dim in enumerate(value.type.tensor_type.shape.dim):
                found[value.name, axis] = dim.dim_value or 1
    return found


def padded(channels: Float64, tile: int) -> Float64:
    """``channels``, those above ``tile`` rounded up to a multiple of it."""
    if tile == 1:
        return channels
    return np.where(channels > tile, np.ceil(channels / tile) * tile, channels)


def layers_of(
    model: onnx.ModelProto, where: Mapping[Place, int], moving: npt.NDArray[np.bool_]
) -> list[Layer]:
    """Every node of ``model`` that depends on the image and has a channel axis.

    Args:
        where: (tensor, axis) → number.
        moving: of each number, whether it depends on widths.
    """
    shapes: dict[str, list[int]] = {}
    for value in infer_shapes(model):
        shapes[value.name] = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
    weights = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    parameters = {
        tensor.name
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and prod(tensor.dims) > 1
    }
    found: list[Layer] = []
    for node in image_nodes(model):
        shape = shapes.get(node.output[0], [])
        if len(shape) < 2:
            continue
        rows_last = node.op_type in ("Gemm", "MatMul") or len(shape) == 3
        channel = len(shape) - 1 if rows_last else 1
        if not moving[where[node.output[0], channel]]:  # attention: heads may move instead
            axes = [axis for axis in range(1, len(shape)) if moving[where[node.output[0], axis]]]
            channel = axes[0] if axes else channel
        places = prod(shape[1:]) // shape[channel]
        out = where[node.output[0], channel]
        weight = node.input[1] if len(node.input) > 1 else ""
        kind = f"{node.op_type} {places}"
        name = node.name or node.output[0]
        inputs = shapes.get(node.input[0], []) if node.input else []
        reads = tuple(tensor for tensor in node.input if tensor in parameters)
        if node.op_type not in _LAYERS or weight not in weights:
            read = prod(inputs[1:]) // shape[channel]
            found.append(
                Layer(
                    name, kind, node.op_type, places, read, (), 1, 1, out, NO_DIM, False,
                    reads=reads,
                )
            )  # fmt: skip
            continue
        kernel = tuple(weights[weight][2:])
        stride = int(attribute(node, "strides", [1])[0])
        groups = int(attribute(node, "group", 1))
        axis = len(inputs) - 1 if rows_last else 1
        read = prod(inputs[1:]) // inputs[axis]
        source = where[node.input[0], axis]
        dilation = tuple(map(int, attribute(node, "dilations", [1] * len(kernel))))
        padding = _unusual_padding(node, kernel, dilation)
        kind += f" {'x'.join(map(str, kernel)) or '1'}/{stride}{dilated(dilation)}"
        kind += f" padding {padding}" if padding else ""
        if groups > 1 and weights[weight][1] == 1:
            kind, source = f"{kind} depthwise", NO_DIM
        elif groups > 1:
            kind += f" groups {groups}"
        name = weight.rpartition(".")[0] or name
        found.append(
            Layer(
                name, kind, node.op_type, places, read, kernel, stride, groups, out, source, True,
                dilation, padding, reads,
            )
        )  # fmt: skip
    return found


def dilated(dilation: Sequence[int]) -> str:
    """How names of kinds and cells tell a dilation, e.g. `` dilation 4x4``; empty for 1."""
    if all(step == 1 for step in dilation):
        return ""
    return f" dilation {'x'.join(map(str, dilation))}"


def usual_pads(kernel: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """ONNX ``pads`` with (kernel - 1) // 2 * dilation at both ends of each axis."""
    return [(k - 1) // 2 * step for k, step in zip(kernel, dilation, strict=True)] * 2


def _unusual_padding(node: onnx.NodeProto, kernel: Sequence[int], dilation: Sequence[int]) -> str:
    auto = attribute(node, "auto_pad", b"NOTSET")
    if auto != b"NOTSET":
        return str(auto.decode())
    pads = [int(pad) for pad in attribute(node, "pads", [0] * 2 * len(kernel))]
    return "" if pads == usual_pads(kernel, dilation) else "-".join(map(str, pads))


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
