"""Bring a model down to the older operator set that a device's parser knows."""

from __future__ import annotations

import onnx
from onnx import helper

from edgevision.errors import ModelError
from edgevision.export.graph import all_graphs, opset_of


def lower_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """``model`` in ``opset`` of the standard operators, and in the oldest file format that has it.

    Where every operator in use means the same in both versions the number alone changes; else
    onnx's version converter does the work. A newer version of an operator that only takes more
    types, or attributes that are left at their defaults, means the same.

    Raises:
        ModelError: an operator cannot be expressed in ``opset``; names those that changed.
    """
    present = opset_of(model)
    if opset > present:
        raise ValueError(f"opset {opset} is above {present}")
    changed = sorted(_changed(model, present, opset))
    if changed:
        try:
            model = onnx.version_converter.convert_version(model, opset)
        except RuntimeError as error:
            raise ModelError(
                f"The model cannot be brought from opset {present} to {opset}: "
                f"{', '.join(changed)} changed in between.",
                hint="Choose a target with a newer runtime, or replace these operators.",
            ) from error
    else:
        for node in _nodes(model):
            _drop_new_defaults(node, present, opset)
    for imported in model.opset_import:
        if imported.domain in ("", "ai.onnx"):
            imported.version = opset
    model.ir_version = helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True)
    return model


# Newer versions of these mean something else although inputs and attributes look the same.
_REDEFINED = {"GroupNormalization": 21, "BatchNormalization": 14, "AveragePool": 19, "Resize": 19}


def _changed(model: onnx.ModelProto, present: int, wanted: int) -> set[str]:
    """Operators in use that are younger than ``wanted`` and cannot stand there as they are."""
    return {n.op_type for n in _nodes(model) if not _means_the_same(n, present, wanted)}


def _nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [
        node
        for graph in all_graphs(model.graph)
        for node in graph.node
        if node.domain in ("", "ai.onnx")
    ]


def _means_the_same(node: onnx.NodeProto, present: int, wanted: int) -> bool:
    new = onnx.defs.get_schema(node.op_type, present)
    if new.since_version <= wanted:
        return True
    redefined = _REDEFINED.get(node.op_type, 0)
    if wanted < redefined <= new.since_version or not onnx.defs.has(node.op_type, wanted):
        return False
    try:
        old = onnx.defs.get_schema(node.op_type, wanted)
    except onnx.defs.SchemaError:
        return False
    if len(node.input) > old.max_input or len(node.output) > old.max_output:
        return False
    if any(not name for name in node.input[: old.min_input]):
        return False
    for name, attribute in new.attributes.items():
        given = next((item for item in node.attribute if item.name == name), None)
        if name in old.attributes:
            same = _default(old.attributes[name]) == _default(attribute)
            if given is None and not same:
                return False
        elif given is not None and helper.get_attribute_value(given) != _default(attribute):
            return False
    required = [name for name, item in old.attributes.items() if item.required]
    return {*required} <= {item.name for item in node.attribute}


def _drop_new_defaults(node: onnx.NodeProto, present: int, wanted: int) -> None:
    """Remove attributes that ``wanted`` does not know; they hold their defaults."""
    if onnx.defs.get_schema(node.op_type, present).since_version <= wanted:
        return
    known = onnx.defs.get_schema(node.op_type, wanted).attributes
    for item in [item for item in node.attribute if item.name not in known]:
        node.attribute.remove(item)


def _default(attribute: onnx.defs.OpSchema.Attribute) -> object:
    value = attribute.default_value
    return helper.get_attribute_value(value) if value.name else None
