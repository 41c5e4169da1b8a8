"""Time of every kernel that a backend runs, told of the nodes that the model's author wrote.

Some backends tell of each layer which nodes it computes. ONNX Runtime fuses, splits and renames
nodes before it runs them. Its profile speaks of what is left; the optimised graph it can save, of
what that reads and writes. A kernel counts for the source nodes behind its outputs, found by tensor
name, by the node names it keeps, or by what lies between.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import onnx

from edgevision.errors import ModelError
from edgevision.export.graph import Graph
from edgevision.export.loading import load_onnx
from edgevision.quantization.placement import node_name
from edgevision.types import GATE, LayerInfo

if TYPE_CHECKING:
    from edgevision.backends.base import Backend

RUNS = 24
_WARM = 4  # first runs allocate
_SUFFIX = re.compile(r"(_nchwc|_nhwc)?(_token_\d+)?(/\w+Fusion/)?$")
_INTEGER = ("uint8", "int8")
QDQ = ("QuantizeLinear", "DequantizeLinear")
_REORDER = ("ReorderInput", "ReorderOutput")
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_ACTIVATIONS = ("Relu", "Clip", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "LeakyRelu")


@dataclass(frozen=True)
class Kernel:
    """What runs as one piece.

    Attributes:
        operator: of the optimised graph, e.g. ``QLinearConv``.
        nodes: names (``node_name``) of the source nodes that it computes, Q/DQ among them.
        integer: its first input is 8-bit.
        microseconds: mean over the runs, the slowest quarter left out.
    """

    operator: str
    nodes: frozenset[str]
    integer: bool
    microseconds: float


Timer = Callable[[Path, Mapping[str, npt.NDArray[Any]]], list[Kernel]]


@runtime_checkable
class TimesLayers(Protocol):
    """A backend whose layer report has times, and of each layer the ONNX nodes that it computes."""

    def time_layers(
        self, path: Path, *, threads: int | None = None, beside_int8: bool = False
    ) -> tuple[LayerInfo, ...]:
        """The layers of the ONNX file at ``path``, timed with every free axis at 1.

        With ``beside_int8`` a float file is run as the float part of an INT8 one would be.
        """


def kernel_timer(backend: Backend, threads: int | None = None) -> Timer:
    """From an ONNX file and its inputs to its kernels as ``backend`` runs them.

    Args:
        backend: one that times its layers, else ONNX Runtime is meant.
        threads: of it, None for its own choice.
    """
    if isinstance(backend, TimesLayers):
        return lambda path, feeds: reported_kernels(backend, path, threads=threads)
    return lambda path, feeds: time_kernels(path, feeds, threads=threads)


def reported_kernels(
    backend: TimesLayers, path: Path, *, threads: int | None = None
) -> list[Kernel]:
    """The kernels in the report of ``backend`` on the model at ``path``.

    A layer that quantizes and computes nothing else counts as a QuantizeLinear. Nodes that no layer
    names take no time of their own.

    Raises:
        ModelError: the backend cannot run the model.
    """
    operators = {node_name(node): node.op_type for node in load_onnx(path).graph.node}
    kernels = []
    for layer in backend.time_layers(path, threads=threads, beside_int8=True):
        found = {operators[name] for name in layer.nodes if name in operators}
        conversion = next(iter(found)) if len(found) == 1 and found <= set(QDQ) else None
        kernels.append(
            Kernel(
                conversion or layer.operator,
                frozenset(name.removesuffix(GATE) for name in layer.nodes),
                layer.precision == "int8",
                1000 * (layer.time_ms or 0.0),
            )
        )
    return kernels


def time_kernels(
    path: Path,
    feeds: Mapping[str, npt.NDArray[Any]],
    *,
    threads: int | None = None,
    runs: int = RUNS,
) -> list[Kernel]:
    """Run the model at ``path`` and time its kernels, in the order they run.

    Args:
        feeds: one array for each input.
        threads: of ONNX Runtime, None for its own choice.
        runs: how often; some more come before, uncounted.

    Raises:
        ModelError: ONNX Runtime cannot run the model.
    """
    source = Graph(load_onnx(path))
    with tempfile.TemporaryDirectory() as folder:
        optimised, events = _profile(path, feeds, threads, runs + _WARM, Path(folder))
    times = _times(events, optimised)
    owners = _owners(Graph(optimised), source)
    kernels = []
    for index, node in enumerate(optimised.graph.node):
        if index not in times:
            continue  # folded while it was loaded
        microseconds, dtype = times[index]
        kernels.append(Kernel(node.op_type, owners[index], dtype in _INTEGER, microseconds))
    return kernels


def _profile(
    path: Path,
    feeds: Mapping[str, npt.NDArray[Any]],
    threads: int | None,
    runs: int,
    folder: Path,
) -> tuple[onnx.ModelProto, list[dict[str, Any]]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    try:
        session: Any = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        for _ in range(runs):
            session.run(None, dict(feeds))
    except Exception as error:
        raise ModelError(f"{path.name}: ONNX Runtime cannot run it: {error}") from error
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return onnx.load(str(folder / "optimised.onnx")), events


def _times(
    events: list[dict[str, Any]], optimised: onnx.ModelProto
) -> dict[int, tuple[float, str]]:
    """Position in the optimised graph → (microseconds, type of the first input)."""
    durations: dict[str, list[float]] = defaultdict(list)
    facts: dict[str, tuple[str, int, str]] = {}
    for event in events:
        name = event["name"].removesuffix("_kernel_time")
        if event.get("cat") != "Node" or name == event["name"]:
            continue
        args = event["args"]
        types = args.get("input_type_shape") or [{}]
        durations[name].append(float(event["dur"]))
        facts[name] = (args["op_name"], int(args["node_index"]), next(iter(types[0]), ""))
    positions = {node.name: i for i, node in enumerate(optimised.graph.node) if node.name}
    # A node without a name is told by operator and index; both lists are in the order of creation.
    nameless: dict[str, list[int]] = defaultdict(list)
    for i, node in enumerate(optimised.graph.node):
        if not node.name:
            nameless[node.op_type].append(i)
    strangers: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for name, (operator, index, _) in facts.items():
        if name not in positions:
            strangers[operator].append((index, name))
    for operator, found in strangers.items():
        for place, (_, name) in zip(nameless[operator], sorted(found), strict=False):
            positions[name] = place
    return {
        positions[name]: (_steady_mean(durations[name][_WARM:]), facts[name][2])
        for name in facts
        if name in positions
    }


def _steady_mean(values: list[float]) -> float:
    """Durations are whole microseconds, too coarse for a median of what takes three of them."""
    kept = sorted(values)[: max(1, round(len(values) * 0.75))]
    return fmean(kept) if kept else 0.0


def _owners(optimised: Graph, source: Graph) -> list[frozenset[str]]:
    """For each optimised node, the names of the source nodes that it computes."""
    anchors = [_anchor(node, source) for node in optimised.nodes]
    # A reordering gives the result of the kernel in front of it another layout, and its name.
    computes = [node.op_type not in _REORDER for node in optimised.nodes]
    made = {id(a) for a, real in zip(anchors, computes, strict=True) if a is not None and real}
    covered: dict[int, int] = {}  # id of a source node → position of the optimised node
    for position, anchor in enumerate(anchors):
        if anchor is not None and computes[position]:
            for node in _behind(anchor, source, made):
                covered.setdefault(id(node), position)
    places = {id(node): i for i, node in enumerate(optimised.nodes)}
    # What the library wrote out into several nodes (HardSwish, Gelu) has no anchor of its own: it
    # counts for the source nodes left over in front of whoever reads it, or else for the reader.
    for position in reversed(range(len(anchors))):
        if anchors[position] is None:
            output = optimised.nodes[position].output[0]
            reader = next((u.node for u in optimised.uses.get(output, [])), None)
            if reader is not None:
                anchors[position] = _left_over(anchors[places[id(reader)]], source, covered)
    owned: list[set[str]] = [set() for _ in anchors]
    for position, anchor in enumerate(anchors):
        if anchor is not None:
            owned[position].add(node_name(anchor))
    seen = {name for names, real in zip(owned, computes, strict=True) if real for name in names}
    for node in source.nodes:
        if id(node) not in covered:
            # Fused into the kernel in front of it: an activation, a residual Add.
            makers = [source.producers[name] for name in node.input if name in source.producers]
            covered[id(node)] = max((covered[id(maker)] for maker in makers), default=-1)
        if covered[id(node)] >= 0 and node_name(node) not in seen:
            owned[covered[id(node)]].add(node_name(node))
    return [frozenset(name.removesuffix(GATE) for name in names) for names in owned]


def _anchor(node: onnx.NodeProto, source: Graph) -> onnx.NodeProto | None:
    """The source node whose result an optimised node's is; None for one that is made up."""
    for output in node.output:
        if output in source.producers:
            return source.producers[output]
    if node.op_type in (*_REORDER, "Transpose"):
        return None
    stem = _SUFFIX.sub("", node.name)
    if stem in source.producers and stem != node.name:
        return source.producers[stem]
    return next((each for each in source.nodes if each.name and each.name == stem), None)


def _behind(anchor: onnx.NodeProto, source: Graph, made: set[int]) -> list[onnx.NodeProto]:
    """``anchor`` and what lies behind it up to other anchors: all that one kernel computes."""
    found, queue = [anchor], [anchor]
    while queue:
        for name in queue.pop().input:
            maker = source.producers.get(name)
            if maker is None or id(maker) in made or _belongs_before(maker, anchor, source):
                continue
            if maker not in found:
                found.append(maker)
                queue.append(maker)
    return found


def _belongs_before(node: onnx.NodeProto, anchor: onnx.NodeProto, source: Graph) -> bool:
    """Whether ``node``, without a kernel of its own, is no part of the kernel of ``anchor``."""
    if anchor.op_type in QDQ:
        return node.op_type not in QDQ
    if node.op_type not in _ACTIVATIONS or node.input[0] in anchor.input:
        return False  # x * Sigmoid(x) is one kernel
    maker = source.producers.get(node.input[0])
    return maker is not None and maker.op_type in _LAYERS  # a layer takes its activation along


def _left_over(
    reader: onnx.NodeProto | None, source: Graph, covered: dict[int, int]
) -> onnx.NodeProto | None:
    if reader is None:
        return None
    makers = (source.producers.get(name) for name in reader.input)
    return next((m for m in makers if m is not None and id(m) not in covered), reader)


def conversion_time(timer: Timer) -> tuple[float, float]:
    """Microseconds that a QuantizeLinear or DequantizeLinear takes: (once, for each element).

    Measured with ``timer`` on two sizes of activations, the mean of both operators.
    """
    small, large = 1 << 12, 1 << 18
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.onnx"
        onnx.save(_pairs(small, large), str(path))
        random = np.random.default_rng(0)
        feeds: dict[str, npt.NDArray[Any]] = {
            f"x{n}": random.normal(size=(1, n)).astype(np.float32) for n in (small, large)
        } | {f"i{n}": random.integers(0, 255, (1, n)).astype(np.uint8) for n in (small, large)}
        kernels = timer(path, feeds)
    times = {
        size: fmean(k.microseconds for k in kernels if k.nodes & {f"q{size}", f"d{size}"})
        for size in (small, large)
    }
    slope = max(0.0, times[large] - times[small]) / (large - small)
    return max(0.0, times[small] - slope * small), slope


def _pairs(*sizes: int) -> onnx.ModelProto:
    from onnx import TensorProto, helper, numpy_helper

    nodes, inputs, outputs = [], [], []
    for n in sizes:
        nodes += [
            helper.make_node("QuantizeLinear", [f"x{n}", "scale", "zero"], [f"q{n}"], f"q{n}"),
            helper.make_node("DequantizeLinear", [f"i{n}", "scale", "zero"], [f"d{n}"], f"d{n}"),
        ]
        inputs += [
            helper.make_tensor_value_info(f"x{n}", TensorProto.FLOAT, [1, n]),
            helper.make_tensor_value_info(f"i{n}", TensorProto.UINT8, [1, n]),
        ]
        outputs += [
            helper.make_tensor_value_info(f"q{n}", TensorProto.UINT8, [1, n]),
            helper.make_tensor_value_info(f"d{n}", TensorProto.FLOAT, [1, n]),
        ]
    constants = [
        numpy_helper.from_array(np.array(0.02, np.float32), "scale"),
        numpy_helper.from_array(np.array(128, np.uint8), "zero"),
    ]
    graph = helper.make_graph(nodes, "pairs", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
