"""Run a graph in memory on calibration images, reduced inside the graph to what is asked of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from edgevision.errors import DataError, ModelError
from edgevision.export.graph import Graph, attribute, opset_of, set_initializer
from edgevision.export.passes.unused import drop_unused
from edgevision.quantization.rules.weighted import output_channel_axis

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

_AXES_AS_INPUT = 18  # opset from which ReduceMean and ReduceMax take their axes as an input


class Channels(NamedTuple):
    """Where the channels of a tensor are: ``first`` is (N, C, …), ``last`` is (…, C)."""

    number: int
    place: Literal["first", "last"]


class Simulator:
    """A float32 ``model`` of one input on ONNX Runtime, image by image.

    Q/DQ pairs are computed as they are written, so the result is the same on every machine.

    Args:
        model: with its weights inside; not changed.
        outputs: tensors to compute; what they do not need is not run.
        threads: of ONNX Runtime, None for its own choice.

    Raises:
        ModelError: ONNX Runtime refuses the model, or it has several inputs.
    """

    def __init__(
        self, model: onnx.ModelProto, outputs: Sequence[str], *, threads: int | None = None
    ) -> None:
        import onnxruntime

        graph = Graph(model)
        if len(graph.inputs) != 1:
            raise ModelError(f"One input is expected, the model has {graph.inputs}.")
        self.input = graph.inputs[0]
        self.outputs = list(outputs)
        probe = onnx.ModelProto()
        probe.CopyFrom(model)
        del probe.graph.output[:]
        probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self.outputs)
        drop_unused(probe)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads or 0
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        try:
            self._session: Any = onnxruntime.InferenceSession(
                probe.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise ModelError(f"ONNX Runtime cannot run the model: {error}") from error

    def __call__(self, images: Float32) -> Iterator[dict[str, npt.NDArray[Any]]]:
        """The outputs by name for each of ``images``, (N, C, H, W), with a batch of 1.

        Raises:
            DataError: no images.
            ModelError: ONNX Runtime fails on them.
        """
        if not len(images):
            raise DataError("No images were given.")
        for image in images:
            try:
                values = self._session.run(self.outputs, {self.input: image[None]})
            except Exception as error:
                raise ModelError(f"ONNX Runtime fails on the images: {error}") from error
            yield dict(zip(self.outputs, values, strict=True))


class Statistics:
    """Adds reductions of tensors to a copy of a model, so that only small results leave it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self._opset = opset_of(model)
        self._made: set[str] = set()

    def energy(self, tensor: str) -> str:
        """Sum of the squares of ``tensor``; the name of the 0-d result."""
        return self._add("ReduceSumSquare", [tensor], f"{tensor}_energy", keepdims=0)

    def shape(self, tensor: str) -> str:
        """Shape of ``tensor``, int64."""
        return self._add("Shape", [tensor], f"{tensor}_shape")

    def difference(self, tensor: str, other: str) -> str:
        """``tensor`` less ``other``, not reduced yet."""
        return self._add("Sub", [tensor, other], f"{tensor}_difference")

    def mean(self, tensor: str, channels: Channels) -> str:
        """Mean of each channel, (C,)."""
        return self._channelwise("ReduceMean", tensor, channels)

    def peak(self, tensor: str, channels: Channels) -> str:
        """Largest absolute value of each channel, (C,)."""
        return self._channelwise("ReduceMax", self._add("Abs", [tensor], f"{tensor}_abs"), channels)

    def _channelwise(self, operator: str, tensor: str, channels: Channels) -> str:
        shape, axes = ([0, channels.number, -1], [0, 2])
        if channels.place == "last":
            shape, axes = [-1, channels.number], [0]
        rows = self._add(
            "Reshape", [tensor, self._constant(shape)], f"{tensor}_by_{channels.place}_channel"
        )
        name = f"{rows}_{operator}"
        if self._opset >= _AXES_AS_INPUT:
            return self._add(operator, [rows, self._constant(axes)], name, keepdims=0)
        return self._add(operator, [rows], name, axes=axes, keepdims=0)

    def _constant(self, values: list[int]) -> str:
        name = "edgevision_" + "_".join(map(str, values))
        set_initializer(self.model, name, np.array(values, np.int64))
        return name

    def _add(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        if output not in self._made:
            self._made.add(output)
            node = helper.make_node(operator, inputs, [output], output, **attributes)
            self.model.graph.node.append(node)
        return output


def decibels(signal: float, noise: float) -> float:
    """Signal-to-noise ratio of two energies in dB, kept within 200 dB either way."""
    if noise <= 0:
        return 200.0
    return float(np.clip(10 * np.log10(max(signal, 1e-300) / noise), -200, 200))


def network_sqnr(
    reference: onnx.ModelProto,
    model: onnx.ModelProto,
    images: Float32,
    *,
    threads: int | None = None,
) -> float:
    """SQNR in dB of all graph outputs of ``model`` against those of ``reference``.

    Raises:
        ModelError: one of them cannot be run.
        DataError: no images.
    """
    names = [value.name for value in reference.graph.output]
    exact = Simulator(reference, names, threads=threads)(images)
    other = Simulator(model, names, threads=threads)(images)
    signal = noise = 0.0
    for wanted, got in zip(exact, other, strict=True):
        for name in names:
            signal += float(np.square(wanted[name], dtype=np.float64).sum())
            noise += float(np.square(got[name].astype(np.float64) - wanted[name]).sum())
    return decibels(signal, noise)


def average(rows: Iterable[dict[str, npt.NDArray[Any]]]) -> dict[str, Float64]:
    """Mean over the images of each output, in float64."""
    total: dict[str, Float64] = {}
    count = 0
    for row in rows:
        count += 1
        for name, value in row.items():
            total[name] = total.get(name, 0.0) + value.astype(np.float64)
    return {name: value / count for name, value in total.items()}


def output_channels(node: onnx.NodeProto, graph: Graph) -> Channels | None:
    """Output channels of a layer whose second input is a constant weight, else None."""
    weight = graph.initializers.get(node.input[1]) if len(node.input) > 1 else None
    if weight is None or not weight.dims:
        return None
    if node.op_type == "ConvTranspose":
        return Channels(weight.dims[1] * attribute(node, "group", 1), "first")
    axis = output_channel_axis(node, len(weight.dims))
    if node.op_type == "Conv":
        return Channels(weight.dims[0], "first")
    if node.op_type not in ("Gemm", "MatMul") or axis is None:
        return None
    return Channels(weight.dims[axis], "last")


def input_channels(node: onnx.NodeProto, graph: Graph) -> Channels | None:
    """Channels of the activation that such a layer reads, else None."""
    outputs = output_channels(node, graph)
    if outputs is None:
        return None
    dims = graph.initializers[node.input[1]].dims
    if node.op_type == "Conv":
        return Channels(dims[1] * attribute(node, "group", 1), "first")
    if node.op_type == "ConvTranspose":
        return Channels(dims[0], "first")
    return Channels(dims[1 - (output_channel_axis(node, len(dims)) or 0)], "last")
