"""Even out channels across neighbouring layers, so that one scale for a tensor serves them all.

Where what lies between a layer and the layers that read it is positively homogeneous,
``f(s x) = s f(x)`` for ``s > 0``, each channel may be divided by ``s`` on one side and multiplied
by it on the other: the network computes the same.

- Cross-layer equalization chooses ``s`` by the weights: M. Nagel et al., "Data-Free Quantization
  Through Weight Equalization and Bias Correction", ICCV 2019, equation 11. Where every output
  channel has a scale of its own, the layer in front gains nothing by it.
- Smoothing chooses ``s`` by the activations: G. Xiao et al., "SmoothQuant", ICML 2023, equation 4.

Which layers: found by what the graph looks like. Clip with an upper bound, HardSwish, SiLU and GELU
are not homogeneous and end the search. High-bias absorption is left out: it is exact only without
padding, and for values that no image contradicts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from edgevision.errors import UsageError
from edgevision.export.graph import Graph, attribute, set_initializer
from edgevision.quantization.placement import node_name
from edgevision.quantization.rules.weighted import output_channel_axis
from edgevision.quantization.simulation import (
    Channels,
    Float32,
    Float64,
    Simulator,
    Statistics,
    input_channels,
    output_channels,
)

_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_HOMOGENEOUS = ("Relu", "LeakyRelu", "Identity", "Dropout")
_GLOBAL_POOLS = ("GlobalAveragePool", "GlobalMaxPool")
_POOLS = ("MaxPool", "AveragePool", *_GLOBAL_POOLS)
_FLATTENING = ("Flatten", "Reshape", "Squeeze")
_ROUNDS = 40
_STILL = 0.01  # relative change of the scales at which equalization has converged
_LARGEST = 1e4  # of a scale: float32 keeps its digits


@dataclass(frozen=True)
class Group:
    """Layers around one tensor whose channels can be scaled.

    Attributes:
        producer: node whose parameters are divided.
        parameters: its weight, or gamma and beta, and bias, each with the axis of the channels.
        number: of channels.
        readers: layers whose weights are multiplied, in the graph's order.
    """

    producer: onnx.NodeProto
    parameters: tuple[tuple[str, int], ...]
    number: int
    readers: tuple[onnx.NodeProto, ...]


def equalize(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Cross-layer equalization of convolutions and matrix products.

    Args:
        model: the float model; not changed.

    Returns:
        A model that computes the same, to be calibrated anew, and the names of the nodes whose
        output channels were scaled.
    """
    weights = _Weights(model)
    groups = [group for group in find_groups(model) if group.producer.op_type in _LAYERS]
    for _ in range(_ROUNDS):
        change = 0.0
        for group in groups:
            first, second = weights.producer_peaks(group), weights.reader_peaks(group)
            change = max(change, weights.scale(group, np.sqrt(first * second), second))
        if change < _STILL:
            break
    return weights.written(), [node_name(group.producer) for group in groups]


def smooth(
    model: onnx.ModelProto,
    images: Float32,
    *,
    alpha: float = 0.5,
    threads: int | None = None,
) -> tuple[onnx.ModelProto, list[str]]:
    """Move outliers of activations into the weights of the layers that read them.

    Args:
        model: the float model; not changed.
        images: (N, C, H, W) float32, preprocessed as for the network.
        alpha: how much of the difficulty goes into the weights, 0 to 1.
        threads: of ONNX Runtime, None for its own choice.

    Returns:
        A model that computes the same, to be calibrated anew, and the names of the nodes whose
        output channels were scaled.

    Raises:
        ModelError: the model cannot be run.
        DataError: no images.
        UsageError: ``alpha`` out of range.
    """
    if not 0 <= alpha <= 1:
        raise UsageError(f"alpha must lie in 0 to 1, got {alpha:g}.")
    weights, graph, groups = _Weights(model), Graph(model), find_groups(model)
    if not groups:
        return weights.written(), []
    statistics = Statistics(model)
    names: dict[str, list[str]] = {}  # by the producer's parameter
    for group in groups:
        for reader in group.readers:
            channels = input_channels(reader, graph)
            assert channels is not None, "readers are layers with constant weights"
            peak = statistics.peak(reader.input[0], channels)
            names.setdefault(group.parameters[0][0], []).append(peak)
    wanted = sorted({name for found in names.values() for name in found})
    peaks = dict.fromkeys(wanted, np.zeros(1))
    for row in Simulator(statistics.model, wanted, threads=threads)(images):
        peaks = {name: np.maximum(peaks[name], row[name].astype(np.float64)) for name in wanted}
    for group in groups:
        first = np.max([peaks[name] for name in names[group.parameters[0][0]]], axis=0)
        weights.scale(group, first**alpha, weights.reader_peaks(group) ** (1 - alpha))
    return weights.written(), [node_name(group.producer) for group in groups]


def find_groups(model: onnx.ModelProto) -> list[Group]:
    """Every place where channels can be scaled, in the graph's order.

    A weight that several nodes share is left alone, and so is a tensor that leaves the graph.
    """
    graph = Graph(model)
    search = _Search(graph, _ranks(model))
    found = []
    for node in graph.nodes:
        parameters, tensor, channels = _producer(node, graph)
        if channels is None or not all(_is_own(name, graph) for name, _ in parameters):
            continue
        readers = search.readers(tensor, channels)
        if readers:
            found.append(Group(node, parameters, channels.number, readers))
    return found


class _Search:
    """Follows a tensor to the layers that read it."""

    def __init__(self, graph: Graph, ranks: dict[str, int]) -> None:
        self._graph = graph
        self._ranks = ranks

    def readers(self, tensor: str, channels: Channels) -> tuple[onnx.NodeProto, ...]:
        """All layers that read ``tensor``; none where something else does that cannot follow."""
        found: dict[str, onnx.NodeProto] = {}
        passed: set[str] = set()
        if not self._follow(tensor, channels, False, passed, found):
            return ()
        return tuple(node for node in self._graph.nodes if node.output[0] in found)

    def _follow(
        self,
        tensor: str,
        channels: Channels,
        pooled: bool,
        passed: set[str],
        found: dict[str, onnx.NodeProto],
    ) -> bool:
        if tensor in self._graph.outputs or tensor in self._graph.captured:
            return False
        for node, slot in self._graph.uses.get(tensor, []):
            output = node.output[0]
            if node.op_type in _LAYERS:
                if slot or not self._can_read(node, channels):
                    return False
                found[output] = node
                continue
            after = self._behind(node, slot, tensor, channels, pooled)
            # Where two ways meet, both would carry the factor.
            if after is None or output in passed:
                return False
            passed.add(output)
            globally = pooled or node.op_type in _GLOBAL_POOLS
            if not self._follow(output, after, globally, passed, found):
                return False
        return True

    def _can_read(self, node: onnx.NodeProto, channels: Channels) -> bool:
        fits = input_channels(node, self._graph) == channels
        return fits and not attribute(node, "transA", 0) and _is_own(node.input[1], self._graph)

    def _behind(
        self, node: onnx.NodeProto, slot: int, tensor: str, channels: Channels, pooled: bool
    ) -> Channels | None:
        """Where the channels are behind ``node``, None where it does not carry a factor on."""
        if node.op_type in _HOMOGENEOUS:
            return channels
        if node.op_type in _POOLS:
            return channels if channels.place == "first" else None
        if node.op_type in _FLATTENING:
            # One value a channel is left, so nothing gets mixed up.
            return Channels(channels.number, "last") if pooled and slot == 0 else None
        if node.op_type == "Mul":
            ranks = self._ranks.get(tensor), self._ranks.get(node.output[0], -1)
            return channels if ranks[0] == ranks[1] else None
        return None


class _Weights:
    """Arrays of a model while they are scaled, in float64."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._graph = Graph(model)
        self._arrays: dict[str, Float64] = {}

    def producer_peaks(self, group: Group) -> Float64:
        """Largest absolute weight of each output channel, (C,)."""
        name, axis = group.parameters[0]
        array = self._array(name)
        others = tuple(i for i in range(array.ndim) if i != axis)
        return np.asarray(np.abs(array).max(axis=others))

    def reader_peaks(self, group: Group) -> Float64:
        """Largest absolute weight that any reader has for each input channel, (C,)."""
        peaks = []
        for reader in group.readers:
            array, axes = self._by_input_channel(reader)
            peaks.append(np.abs(array).max(axis=axes).reshape(-1))
        return np.asarray(np.max(peaks, axis=0))

    def scale(self, group: Group, above: Float64, below: Float64) -> float:
        """Divide the producer and multiply the readers by ``above / below``, both (C,).

        Channels where either is zero stay. Returns the largest relative change.
        """
        live = (above > 0) & (below > 0)
        factors = np.where(live, above, 1) / np.where(live, below, 1)
        factors = np.clip(factors, 1 / _LARGEST, _LARGEST)
        for name, axis in group.parameters:
            array = self._array(name)
            shape = [1] * array.ndim
            shape[axis] = -1
            self._arrays[name] = array / factors.reshape(shape)
        for reader in group.readers:
            array, axes = self._by_input_channel(reader)
            shape = [1 if axis in axes else n for axis, n in enumerate(array.shape)]
            scaled = array * factors.reshape(shape)
            self._arrays[reader.input[1]] = scaled.reshape(self._array(reader.input[1]).shape)
        return float(np.abs(factors - 1).max())

    def written(self) -> onnx.ModelProto:
        """A copy of the model with the arrays as they are now."""
        changed = onnx.ModelProto()
        changed.CopyFrom(self._model)
        for name, array in self._arrays.items():
            set_initializer(changed, name, array.astype(np.float32))
        return changed

    def _array(self, name: str) -> Float64:
        if name not in self._arrays:
            array = self._graph.constant(name)
            assert array is not None, "groups have constant parameters"
            self._arrays[name] = array.astype(np.float64)
        return self._arrays[name]

    def _by_input_channel(self, node: onnx.NodeProto) -> tuple[Float64, tuple[int, ...]]:
        """The weights of ``node``, and the axes over which an input channel extends."""
        array = self._array(node.input[1])
        if node.op_type == "Conv":
            groups = attribute(node, "group", 1)
            return array.reshape(groups, array.shape[0] // groups, array.shape[1], -1), (1, 3)
        axis = 0
        if node.op_type in ("Gemm", "MatMul"):
            axis = 1 - (output_channel_axis(node, array.ndim) or 0)
        return array, tuple(i for i in range(array.ndim) if i != axis)


def _producer(
    node: onnx.NodeProto, graph: Graph
) -> tuple[tuple[tuple[str, int], ...], str, Channels | None]:
    """Parameters that scale the channels of a node, and the tensor that they scale."""
    nothing: tuple[tuple[tuple[str, int], ...], str, None] = ((), "", None)
    channels: Channels | None
    if node.op_type == "LayerNormalization":
        dims = _dims(node.input[1], graph)
        channels = Channels(dims[0], "last") if len(dims) == 1 else None
        parameters = [(name, 0) for name in node.input[1:] if name]
        tensor = node.output[0]
    elif node.op_type in _LAYERS:
        channels = output_channels(node, graph)
        rank = len(_dims(node.input[1], graph))
        axis = output_channel_axis(node, rank)
        if channels is None or axis is None:
            return nothing
        parameters = [(node.input[1], axis), *((name, 0) for name in node.input[2:] if name)]
        tensor = node.output[0]
        added = graph.only_reader(tensor)
        if node.op_type == "MatMul" and added is not None and added.op_type == "Add":
            bias = next(name for name in added.input if name != tensor)
            parameters.append((bias, 0))
            tensor = added.output[0]
    else:
        return nothing
    first = () if node.op_type == "LayerNormalization" else parameters[:1]
    vectors = [name for name, _ in parameters[len(first) :]]
    if channels is None or any(_dims(name, graph) != (channels.number,) for name in vectors):
        return nothing
    return tuple(parameters), tensor, channels


def _dims(name: str, graph: Graph) -> tuple[int, ...]:
    tensor = graph.initializers.get(name)
    return () if tensor is None else tuple(tensor.dims)


def _is_own(name: str, graph: Graph) -> bool:
    """Whether ``name`` is a float32 constant that one node alone reads."""
    tensor = graph.initializers.get(name)
    single = graph.only_reader(name) is not None
    return tensor is not None and single and tensor.data_type == onnx.TensorProto.FLOAT


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = [*inferred.input, *inferred.value_info, *inferred.output]
    known = [value for value in values if value.type.tensor_type.HasField("shape")]
    return {value.name: len(value.type.tensor_type.shape.dim) for value in known}
