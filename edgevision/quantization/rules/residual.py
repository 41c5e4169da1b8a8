"""Residual Add on TensorRT: quantize the skip, never the branch that a Conv adds onto."""

from __future__ import annotations

import onnx

from edgevision.quantization.rules.base import Outcome, Placer, Refusal

_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def residual(node: onnx.NodeProto, placer: Placer) -> Outcome | Refusal:
    """Quantize the inputs of an Add except the one that comes straight out of a Conv.

    TensorRT fuses Conv + Add + Relu into one kernel whose output precision is that of the skip
    input. Where both sides come out of a Conv (a downsampling skip), the one with fewer layers
    behind it counts as the skip.
    """
    names = [str(name) for name in node.input]
    if any(placer.is_constant(name) for name in names):
        return Refusal("adds a constant, which fuses into its neighbour in float")
    if not all(placer.is_float32(name) for name in names):
        return Refusal("an input is not known to be float32")
    branches = [slot for slot, name in enumerate(names) if _is_branch(name, node, placer)]
    if not branches:
        return Refusal("neither input comes straight out of a Conv that it could fuse with")
    fused = max(branches, key=lambda slot: (_depth(names[slot], placer), -slot))
    for slot in range(len(names)):
        if slot != fused:
            placer.quantize_input(node, slot)
    return Outcome.INT8


def _is_branch(name: str, add: onnx.NodeProto, placer: Placer) -> bool:
    layer = placer.graph.producers.get(name)
    fusable = layer is not None and layer.op_type in ("Conv", "ConvTranspose")
    return fusable and placer.graph.only_reader(name) is add


def _depth(name: str, placer: Placer) -> int:
    """Most layers with weights on any path from a graph input to ``name``."""
    depths: dict[str, int] = {}
    for node in placer.graph.nodes:
        deepest = max((depths.get(source, 0) for source in node.input), default=0)
        for output in node.output:
            depths[output] = deepest + (node.op_type in _LAYERS)
        if name in node.output:
            break
    return depths.get(name, 0)
