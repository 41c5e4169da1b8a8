"""A quantized graph without its Q/DQ pairs must be the float graph again, node for node."""

from __future__ import annotations

import onnx

from edgevision.export.graph import Graph

QDQ = ("QuantizeLinear", "DequantizeLinear")


def without_qdq(quantized: onnx.ModelProto, original: onnx.ModelProto) -> onnx.ModelProto:
    """Take all Q/DQ pairs out of ``quantized``.

    Integer constants cannot be turned back into the floats they came from, so where a node reads
    one, or a corrected bias, the constant that the same node of ``original`` reads takes its place.
    """
    graph = Graph(quantized)
    sources: dict[str, str] = {}  # behind a Q/DQ pair → in front of it; "" for a constant
    for node in graph.nodes:
        if node.op_type == "DequantizeLinear":
            maker = graph.producers.get(node.input[0])
            sources[node.output[0]] = maker.input[0] if maker is not None else ""
    leaving = {sources[name]: name for name in graph.outputs if sources.get(name)}

    bare = onnx.ModelProto()
    bare.CopyFrom(quantized)
    del bare.graph.node[:], bare.graph.initializer[:]
    bare.graph.node.extend(node for node in graph.nodes if node.op_type not in QDQ)
    known = {tensor.name for tensor in original.graph.initializer}
    for node, before in zip(bare.graph.node, original.graph.node, strict=True):
        for slot, name in enumerate(node.input):
            own = name in graph.initializers and name not in known  # a corrected bias
            source = "" if own else sources.get(name, name)
            source = source or before.input[slot]
            node.input[slot] = leaving.get(source, source)
        for slot, name in enumerate(node.output):
            node.output[slot] = leaving.get(name, name)
    bare.graph.initializer.extend(original.graph.initializer)
    return bare


def check_equivalent(quantized: onnx.ModelProto, original: onnx.ModelProto) -> None:
    """Compare ``quantized`` without Q/DQ with the float graph it came from.

    Raises:
        AssertionError: they differ; that is a defect of EdgeVision, not of the model.
    """
    bare = without_qdq(quantized, original)
    for have, want in zip(bare.graph.node, original.graph.node, strict=True):
        if have.SerializeToString(deterministic=True) != want.SerializeToString(deterministic=True):
            raise AssertionError(f"quantizing changed node '{want.name}': {want} became {have}")
    if [v.name for v in bare.graph.output] != [v.name for v in original.graph.output]:
        raise AssertionError("quantizing changed the graph's outputs")
