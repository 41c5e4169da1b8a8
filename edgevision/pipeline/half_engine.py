"""The float16 form of a graph, for builders that take every precision from the graph."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgevision.backends.onnx_file import read_onnx
from edgevision.errors import InputError, MissingExtraError, ModelError
from edgevision.lazy import require

_ONNX = ("", "ai.onnx")
_LOG = logging.getLogger(__name__)


def in_half(graph: Path, folder: Path, *, is_asked: bool) -> Path:
    """``graph`` with float16 in place of float32, in ``folder`` under its own name.

    A graph that computes in float16 anywhere is returned as it is: its author chose. So is one with
    operators that ONNX does not know: the builder names them.

    Args:
        is_asked: the user asked for it; otherwise what stands in the way is a warning, and
            ``graph`` is returned as it is.

    Raises:
        InputError: there is no such file.
        MissingExtraError: the package onnx is not installed.
        ModelError: it is no whole ONNX file; or, asked for, the opset is too old or operators are
            of other domains than ONNX's.
    """
    if not graph.is_file():
        raise InputError(f"No file at {graph}.")
    nodes = read_onnx(graph).nodes
    try:
        foreign = {f"{node.domain}.{node.operator}" for node in nodes if node.domain not in _ONNX}
        if foreign:
            raise ModelError(
                f"'{graph.name}' has operators whose outputs' types ONNX does not know: "
                f"{', '.join(sorted(foreign))}."
            )
        onnx = require("onnx")
        from edgevision.quantization.half import to_half

        model = onnx.load(graph)
        if any(kind == onnx.TensorProto.FLOAT16 for kind in _types(model)):
            return graph
        try:
            converted = to_half(model)
        except onnx.defs.SchemaError:
            return graph
    except (MissingExtraError, ModelError) as error:
        if is_asked:
            raise
        _LOG.warning("%s is built in float32, not float16: %s", graph.name, error.message)
        return graph
    output = folder / graph.name
    onnx.save(converted, output)
    return output


def _types(model: Any) -> Iterator[int]:
    """Element types of weights, inputs and casts of the main graph."""
    for tensor in model.graph.initializer:
        yield tensor.data_type
    for value in (*model.graph.input, *model.graph.value_info):
        yield value.type.tensor_type.elem_type
    for node in model.graph.node:
        for item in node.attribute:
            if node.op_type == "Cast" and item.name == "to":
                yield item.i
