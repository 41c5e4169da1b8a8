"""Bring a model up to the operator set from which on it can be quantized."""

from __future__ import annotations

import onnx
from onnx import helper

from edgevision.errors import ModelError
from edgevision.export.graph import opset_of

QUANTIZABLE_OPSET = 13  # scales for each channel


def raise_opset(model: onnx.ModelProto, opset: int = QUANTIZABLE_OPSET) -> onnx.ModelProto:
    """``model`` in at least ``opset`` of the standard operators, by onnx's version converter.

    Initializers that an old file lists among its inputs as well, as defaults that a caller may
    replace, become plain constants.

    Raises:
        ModelError: the converter cannot; says what it says.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    for value in [v for v in model.graph.input if v.name in constants]:
        model.graph.input.remove(value)
    oldest = helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True)
    model.ir_version = max(model.ir_version, oldest, 4)  # 4: constants need not be inputs
    present = opset_of(model)
    if present >= opset:
        return model
    try:
        raised: onnx.ModelProto = onnx.version_converter.convert_version(model, opset)
    except (RuntimeError, ValueError) as error:
        line = " ".join(str(error).split())[:200]
        raise ModelError(
            f"The model cannot be brought from opset {present} to {opset}, from which on INT8 "
            f"scales may be per channel: {line}",
            hint="Export it again with opset 13 or later, e.g. 18.",
        ) from error
    return raised
