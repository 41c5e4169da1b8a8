"""Compute once what depends on no input: transposed or dequantized weights, shapes."""

from __future__ import annotations

import onnx
from onnx import helper, numpy_helper

from edgevision.errors import ModelError
from edgevision.export.graph import Graph
from edgevision.export.running import OnnxRun

_STANDARD = ("", "ai.onnx")
_DEQUANTIZE = "DequantizeLinear"
_UNFOLDED = (
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
    "RandomUniformLike", "If", "Loop", "Scan",
)  # fmt: skip


def fold_constants(model: onnx.ModelProto) -> int:
    """Replace nodes that read constants alone by what ONNX Runtime computes for them.

    Nodes of other domains stay, DequantizeLinear excepted, and so do sequences; an output of the
    graph keeps a node of its own. Where ONNX Runtime cannot compute them, nothing changes.
    """
    graph = Graph(model)
    known = set(graph.initializers)
    chosen: list[onnx.NodeProto] = []
    for node in graph.nodes:
        if _foldable(node) and all(not name or name in known for name in node.input):
            chosen.append(node)
            known.update(node.output)
    made = {name for node in chosen for name in node.output if name}
    folded = {id(node) for node in chosen}
    rest = [node for node in graph.nodes if id(node) not in folded]
    read = {name for node in rest for name in node.input} | graph.captured | graph.outputs
    wanted = sorted(made & read)
    if not wanted:
        return 0
    try:
        values = OnnxRun(_submodel(model, graph, chosen, wanted), "constants", optimize=False)({})
        tensors = [numpy_helper.from_array(v, n) for n, v in zip(wanted, values, strict=True)]
    except (ModelError, TypeError, KeyError):
        return 0
    # An output of the graph must be made by a node; ORT itself would take an initializer.
    for tensor in tensors:
        if tensor.name in graph.outputs:
            name = graph.fresh_name(f"{tensor.name}_constant")
            rest.append(helper.make_node("Identity", [name], [tensor.name]))
            tensor.name = name
    del model.graph.node[:]
    model.graph.node.extend(rest)
    model.graph.initializer.extend(tensors)
    return len(chosen)


def _foldable(node: onnx.NodeProto) -> bool:
    if node.op_type == _DEQUANTIZE:
        return True
    sequence = node.op_type.startswith(("Sequence", "Optional", "SplitToSequence"))
    return node.domain in _STANDARD and node.op_type not in _UNFOLDED and not sequence


def _submodel(
    model: onnx.ModelProto, graph: Graph, nodes: list[onnx.NodeProto], wanted: list[str]
) -> onnx.ModelProto:
    part = onnx.ModelProto(ir_version=max(model.ir_version, 4), opset_import=model.opset_import)
    part.graph.name = "constants"
    part.graph.node.extend(nodes)
    needed = {name for node in nodes for name in node.input}
    part.graph.initializer.extend(graph.initializers[n] for n in graph.initializers if n in needed)
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    return part
