"""Which output of a foreign graph is the classifier's, and its logits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from edgevision.errors import ModelError
from edgevision.export.graph import Graph
from edgevision.export.interface import set_output
from edgevision.export.passes.identity import drop_identities
from edgevision.export.passes.unused import drop_unused
from edgevision.export.running import Arrays, OnnxRun

_RESHAPING = ("Flatten", "Reshape", "Squeeze", "Unsqueeze", "Identity")


def classification_head(
    model: onnx.ModelProto,
    outputs: Arrays,
    images: npt.NDArray[np.float32],
    classes: int,
    name: str,
) -> list[str]:
    """Reduce ``model`` to its output of (N, ``classes``), called ``name``; axes of 1 go.

    A Softmax at the end is taken off where softmax of the result gives the same again: the runtime
    computes it, and a network for training has none.

    Args:
        model: changed in place; its one input takes ``images``.
        outputs: of some run, with a row an image.
        images: to check the Softmax with, as many as the model takes in one call.

    Returns:
        What was changed, a line each.

    Raises:
        ModelError: no output has as many columns as there are classes.
    """
    notes: list[str] = []
    named = dict(zip([value.name for value in model.graph.output], outputs, strict=True))
    fitting = [
        one
        for one, array in named.items()
        if array.dtype == np.float32 and array.ndim > 1 and _columns(array) == classes
    ]
    if not fitting:
        listed = "; ".join(f"'{one}' {_shape(array)}" for one, array in named.items())
        raise ModelError(
            f"The data has {classes} classes, so an output (N, {classes}) is expected; the model "
            f"has: {listed}.",
            hint="Each label needs a column of its own, in the order of the labels' names.",
        )
    producers = Graph(model).producers
    plain = [o for o in fitting if o in producers and producers[o].op_type != "Softmax"]
    chosen = name if name in fitting else (plain or fitting)[0]
    if len(named) > 1:
        left = ", ".join(f"'{one}'" for one in named if one != chosen)
        notes.append(f"output '{chosen}' is the classifier's; left out: {left}")
    if named[chosen].ndim > 2:
        graph = Graph(model)
        flat = graph.fresh_name(f"{chosen}_flat")
        model.graph.node.append(helper.make_node("Flatten", [chosen], [flat], axis=1))
        model.graph.output.append(onnx.ValueInfoProto(name=flat))
        model.graph.output[-1].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        model.graph.node[-1].name = graph.fresh_name("Flatten_head")
        chosen = flat
    set_output(model, chosen, name)
    drop_unused(model)
    if _drop_softmax(model, images):
        notes.append("the Softmax at its end is taken off; the runtime computes it")
    return notes


def _columns(array: npt.NDArray[np.float32]) -> int:
    """Columns of (N, columns, 1, …), 0 where further axes are not 1."""
    return array.shape[1] if all(axis == 1 for axis in array.shape[2:]) else 0


def _shape(array: npt.NDArray[np.float32]) -> str:
    return f"({', '.join(['N', *map(str, array.shape[1:])])})"


def _drop_softmax(model: onnx.ModelProto, images: npt.NDArray[np.float32]) -> bool:
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    graph = Graph(bare)
    node = graph.producers.get(bare.graph.output[0].name)
    while node is not None and node.op_type in _RESHAPING:
        node = graph.producers.get(node.input[0])
    if node is None or node.op_type != "Softmax":
        return False
    node.op_type = "Identity"
    del node.attribute[:]
    feed = {bare.graph.input[0].name: images}
    (before,), (logits,) = OnnxRun(model, "with Softmax")(feed), OnnxRun(bare, "without")(feed)
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    if not np.allclose(shifted / shifted.sum(axis=1, keepdims=True), before, atol=1e-5):
        return False
    model.CopyFrom(bare)
    drop_identities(model)
    return True
