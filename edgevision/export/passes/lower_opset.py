"""Bring a model down to the older operator set that a device's parser knows."""

from __future__ import annotations

import onnx
from onnx import helper

from edgevision.errors import ModelError
from edgevision.export.graph import all_graphs, opset_of


def lower_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """``model`` in ``opset`` of the standard operators, and in the oldest file format that has it.

    Where no operator in use changed between the two versions the number alone changes; else
    onnx's version converter does the work.

    Raises:
        ModelError: an operator cannot be expressed in ``opset``; names those that changed.
    """
    present = opset_of(model)
    if opset > present:
        raise ValueError(f"opset {opset} is above {present}")
    changed = _changed(model, present, opset)
    if changed:
        try:
            model = onnx.version_converter.convert_version(model, opset)
        except RuntimeError as error:
            raise ModelError(
                f"The model cannot be brought from opset {present} to {opset}: "
                f"{', '.join(changed)} changed in between.",
                hint="Choose a target with a newer runtime, or replace these operators.",
            ) from error
    for imported in model.opset_import:
        if imported.domain in ("", "ai.onnx"):
            imported.version = opset
    model.ir_version = helper.find_min_ir_version_for(list(model.opset_import))
    return model


def _changed(model: onnx.ModelProto, present: int, wanted: int) -> list[str]:
    """Operators in use whose definition in ``present`` is younger than ``wanted``."""
    used = {
        node.op_type
        for graph in all_graphs(model.graph)
        for node in graph.node
        if node.domain in ("", "ai.onnx")
    }
    return sorted(
        name for name in used if onnx.defs.get_schema(name, present).since_version > wanted
    )
