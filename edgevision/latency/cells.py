"""Single layers timed over a grid of channel counts, so that the steps of the hardware show.

A cell is one layer alone in a graph. On integers its input and output are integers too, as they
are between two such layers of a network; in float the library's changes of layout around it are
part of the time. So cells show where time steps, and networks are predicted from whole networks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgevision.backends.base import Arrays, Artifact, Backend
from edgevision.benchmark import BenchConfig
from edgevision.export.graph import Graph
from edgevision.export.loading import load_onnx, save_onnx
from edgevision.latency.grid import Grid, HeatMap
from edgevision.latency.kept import KeptCells
from edgevision.latency.measure import least_ms, quantize_narrowed
from edgevision.latency.record import now
from edgevision.latency.shapes import Layer, dilated, usual_pads
from edgevision.machine import Machine, ThisMachine
from edgevision.quantization import calibrate

OPERATORS = ("Conv", "Gemm", "MatMul")
_SECONDS = 0.03  # measured for each cell, warm-up included
_INPUT, _OUTPUT = "x", "y"


@dataclass(frozen=True)
class LayerShape:
    """One kind of layer, without its channel counts.

    Attributes:
        operator: ``Conv``, ``Gemm`` or ``MatMul``.
        size: (height, width) of the input in pixels; (tokens, 1) for a product of matrices.
        kernel, stride: of a convolution, else (1, 1) and 1.
        depthwise: as many groups as channels.
        dilation: of a convolution's kernel; its padding is (kernel - 1) // 2 * dilation.
    """

    operator: str
    size: tuple[int, int]
    kernel: tuple[int, int]
    stride: int
    depthwise: bool
    dilation: tuple[int, int] = (1, 1)

    def cell(self, out: int, source: int) -> str:
        """Name in the table, e.g. ``Conv 56x56 3x3/1 32>64``."""
        height, width = self.size
        kernel = "x".join(map(str, self.kernel))
        kernel += f"/{self.stride}{dilated(self.dilation)}"
        depthwise = " depthwise" if self.depthwise else ""
        return f"{self.operator} {height}x{width} {kernel}{depthwise} {source}>{out}"


def shape_of(layer: Layer) -> LayerShape | None:
    """What a layer's cells are made of; None for one that has no cells."""
    depthwise = layer.kind.endswith(" depthwise")
    if layer.operator not in OPERATORS or (layer.groups > 1 and not depthwise):
        return None
    if layer.operator != "Conv":
        return LayerShape(layer.operator, (layer.places, 1), (1, 1), 1, False)
    side = round(layer.read**0.5)
    if len(layer.kernel) != 2 or side * side != layer.read or layer.padding:
        return None  # one that is not square, or padded otherwise, is rare enough
    first, second = layer.dilation or (1, 1)
    return LayerShape("Conv", (side, side), (layer.kernel[0], layer.kernel[1]), layer.stride,
                      depthwise, (first, second))  # fmt: skip


def measure_map(
    grid: Grid,
    backend: Backend,
    folder: Path,
    kept: KeptCells,
    *,
    scheme: str | None = None,
    threads: int | None = None,
    fresh: bool = False,
    machine: Machine | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> HeatMap | None:
    """Time the layers of ``grid``; what the table has is taken from it.

    All that is missing is timed in turns, and kept as soon as it is timed.

    Args:
        backend: one that opens ONNX files as they are.
        folder: for the graphs; they are removed again.
        scheme: of quantization, None for float.
        fresh: measure what the table has again.
        machine: to measure on, None for this one.
        progress: called with the share done.

    Returns:
        None for a kind that has no cells.

    Raises:
        ModelError: the backend cannot run one of the layers.
    """
    shape = shape_of(grid.layer)
    if shape is None:
        return None
    cells = [
        [(shape.cell(out, source), out, source) for out, source in row] for row in grid.pairs()
    ]
    known = {} if fresh else kept.all()
    missing = [cell for row in cells for cell in row if cell[0] not in known]
    done = 0
    for part in _parts(shape, missing):

        def told(share: float, before: int = done, count: int = len(part)) -> None:
            progress((before + share * count) / len(missing))

        timed = _timed(
            shape, part, backend, folder, scheme, threads, machine or ThisMachine(), told
        )
        when = now()
        found = {name: {"ms": ms, "measured": when} for name, ms in timed.items()}
        kept.keep(found)
        known.update(found)
        done += len(part)
    progress(1.0)
    used = [known[name] for row in cells for name, _, _ in row]
    return HeatMap(
        kind=grid.layer.kind,
        layer=grid.layer.name,
        outs=grid.outs,
        sources=grid.sources,
        milliseconds=tuple(tuple(known[name]["ms"] for name, _, _ in row) for row in cells),
        kept=len(used) - len(missing),
        oldest=min(cell["measured"] for cell in used),
    )


Cell = tuple[str, int, int]
_AT_ONCE = 1 << 28  # weights that are open together


def _parts(shape: LayerShape, cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells that are timed together; their weights are of some hundred megabytes at most."""
    parts: list[list[Cell]] = []
    size = _AT_ONCE
    for cell in cells:
        weights = 4 * cell[1] * shape.kernel[0] * shape.kernel[1]
        weights *= 1 if shape.depthwise else cell[2]
        size += weights
        if size > _AT_ONCE:
            parts.append([])
            size = weights
        parts[-1].append(cell)
    return parts


def _timed(
    shape: LayerShape,
    cells: Sequence[Cell],
    backend: Backend,
    folder: Path,
    scheme: str | None,
    threads: int | None,
    machine: Machine,
    progress: Callable[[float], None],
) -> dict[str, float]:
    paths: dict[str, Path] = {}
    try:
        table = None
        runs: dict[str, tuple[Artifact, Arrays]] = {}
        for index, (name, out, source) in enumerate(cells):
            progress(0.5 * index / len(cells))
            path = paths[name] = folder / f"cell-{index}.onnx"
            model = cell_model(shape, out, source)
            feed = _feed(shape, source)
            if scheme is None:
                save_onnx(model, path)
            else:
                narrow = folder / "cell-float.onnx"
                save_onnx(model, narrow)
                # The tensors of all have the same names, and ranges say nothing of time.
                table = table or calibrate(narrow, [feed], threads=1)
                quantize_narrowed(table, scheme, narrow, path)
                narrow.unlink()
                feed = between_integers(path, feed)
            runs[name] = (Artifact(backend.name, path), {_INPUT: feed})
        taken = machine.measure(
            runs,
            threads=threads,
            config=BenchConfig(seconds=_SECONDS * len(cells), relative_width=0.0),
            progress=lambda _, share: progress(0.5 + 0.5 * share),
        )
        return {name: least_ms(taken.samples.ns[name]) for name in paths}
    finally:
        for path in paths.values():
            path.unlink(missing_ok=True)


def _feed(shape: LayerShape, source: int) -> npt.NDArray[Any]:
    dims = _dims(shape, source)
    return np.random.default_rng(0).normal(size=dims).astype(np.float32)


def _dims(shape: LayerShape, channels: int) -> tuple[int, ...]:
    if shape.operator == "Conv":
        return (1, channels, *shape.size)
    tokens = shape.size[0]
    return (1, channels) if tokens == 1 else (1, tokens, channels)


def cell_model(shape: LayerShape, out: int, source: int) -> onnx.ModelProto:
    """The float graph of one layer with these channel counts; its weights are noise."""
    random = np.random.default_rng(0)
    if shape.operator == "Conv":
        dims: tuple[int, ...] = (out, 1 if shape.depthwise else source, *shape.kernel)
        node = helper.make_node(
            "Conv", [_INPUT, "layer.weight", "layer.bias"], [_OUTPUT], "layer",
            kernel_shape=shape.kernel, strides=[shape.stride] * 2,
            dilations=shape.dilation, pads=usual_pads(shape.kernel, shape.dilation),
            group=out if shape.depthwise else 1,
        )  # fmt: skip
    else:
        dims = (source, out)
        bias = ["layer.bias"] if shape.operator == "Gemm" else []
        node = helper.make_node(shape.operator, [_INPUT, "layer.weight", *bias], [_OUTPUT], "layer")
    weights = [numpy_helper.from_array(random.normal(size=dims).astype(np.float32),
                                       "layer.weight")]  # fmt: skip
    if len(node.input) == 3:
        weights.append(numpy_helper.from_array(np.zeros(out, np.float32), "layer.bias"))
    read = _dims(shape, source)
    inputs = helper.make_tensor_value_info(_INPUT, TensorProto.FLOAT, read)
    output = helper.make_tensor_value_info(_OUTPUT, TensorProto.FLOAT, [None] * len(read))
    graph = helper.make_graph([node], "cell", [inputs], [output], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def between_integers(path: Path, feed: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Take the first Q and the last DQ out of a cell, as its neighbours would be integers too.

    Returns:
        What the graph takes now: ``feed`` itself where its first layer reads floats.
    """
    model = load_onnx(path)
    graph = Graph(model)
    first, last = graph.only_reader(_INPUT), graph.producers[_OUTPUT]
    dtype = None
    if first is not None and first.op_type == "QuantizeLinear":
        zero = graph.constant(first.input[2])
        assert zero is not None
        dtype = zero.dtype
        for use in graph.uses[first.output[0]]:
            use.node.input[use.slot] = _INPUT
        kind = helper.np_dtype_to_tensor_dtype(dtype)
        model.graph.input[0].type.tensor_type.elem_type = kind
        model.graph.node.remove(first)
    if last.op_type == "DequantizeLinear":
        zero = graph.constant(last.input[2])
        assert zero is not None
        graph.producers[last.input[0]].output[0] = _OUTPUT
        kind = helper.np_dtype_to_tensor_dtype(zero.dtype)
        model.graph.output[0].type.tensor_type.elem_type = kind
        model.graph.node.remove(last)
    del model.graph.value_info[:]
    save_onnx(model, path)
    return feed if dtype is None else np.clip(np.round(feed * 20), 0, 100).astype(dtype)
