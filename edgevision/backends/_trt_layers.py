"""Precision of every layer, out of TensorRT's own listings.

TensorRT-RTX logs a listing while it builds, on any machine; classic TensorRT's engine inspector
gives JSON. Both tell the element types of a layer's tensors: a layer counts as the type of its
first input, because a Conv between Q/DQ nodes that stayed in float reads float.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from edgevision.backends.onnx_file import OnnxFile
from edgevision.errors import InputError
from edgevision.types import LayerInfo

_PRECISIONS = {
    "float": "fp32",
    "fp32": "fp32",
    "half": "fp16",
    "fp16": "fp16",
    "bfloat16": "bf16",
    "bf16": "bf16",
    "int8": "int8",
    "fp8": "fp8",
    "uint8": "uint8",
    "int32": "int32",
    "int64": "int64",
    "int4": "int4",
    "bool": "bool",
}
_TYPE = re.compile(r"\b(" + "|".join(_PRECISIONS) + r")\b", re.IGNORECASE)
_LINE = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<type>[^,]*), Inputs: \[(?P<inputs>.*?)\]"
    r"(?:, Constants: \[(?P<constants>.*?)\])?, Outputs: \[(?P<outputs>.*?)\], TacticName: "
)
_DATATYPE = re.compile(r"Datatype: (\w+)")
_ONNX = re.compile(r"\[ONNX Layer: (.*?)\]")
# Layers that multiply matrices by TensorRT's names, and the operator where ONNX's is unknown.
_MATRIX = {
    "correlation": "Conv",
    "convolution": "Conv",
    "caskconvolution": "Conv",
    "deconv": "ConvTranspose",
    "deconvolution": "ConvTranspose",
    "caskdeconvolution": "ConvTranspose",
    "gemm": "Gemm",
    "matrix_multiply": "MatMul",
    "matrixmultiply": "MatMul",
    "caskgemm": "Gemm",
}
# The same inside a kernel that TensorRT fused and named after its parts, e.g. __myl_CorrMulAdd_….
_FUSED = {"Corr": "Conv", "Deconv": "ConvTranspose", "Fc": "Gemm", "Gemm": "Gemm"}
_MATRIX_OPERATORS = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))


def layers_from_log(text: str, file: OnnxFile | None = None) -> tuple[LayerInfo, ...]:
    """Layers of the message ``Layers:`` that the builder logs, in execution order.

    Args:
        text: the whole message.
        file: the graph it was built from; with it, matrix layers carry ONNX's operator.

    Raises:
        InputError: there is no layer in it: this TensorRT words its listing otherwise.
    """
    operators = _operators(file)
    layers = []
    for line in text.splitlines():
        found = _LINE.match(line)
        if found is None:
            continue
        types: list[str] = []
        for part in ("inputs", "constants", "outputs"):
            types += _DATATYPE.findall(found[part] or "")
        names = _ONNX.findall(line[found.end() :])
        operator = _operator(found["name"], found["type"], names, operators)
        layers.append(LayerInfo(found["name"], operator, _precision(types), nodes=tuple(names)))
    if not layers:
        raise InputError(f"No layer found in the builder's listing: {text[:120]!r}")
    return tuple(layers)


def layers_from_inspector(text: str, file: OnnxFile | None = None) -> tuple[LayerInfo, ...]:
    """Layers of the engine inspector's JSON.

    Raises:
        InputError: it is no such JSON.
    """
    try:
        entries = json.loads(text)["Layers"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"The engine inspector's report has no layers: {text[:120]!r}") from error
    operators = _operators(file)
    layers = []
    for entry in entries:
        if isinstance(entry, str):  # an engine built without detailed verbosity names them only
            layers.append(LayerInfo(entry, "unknown", "unknown"))
            continue
        name, kind = str(entry.get("Name", "")), str(entry.get("LayerType", "unknown"))
        types = [
            _type_words(tensor)
            for part in ("Inputs", "Constants", "Outputs")
            for tensor in entry.get(part, ())
        ]
        names = _ONNX.findall(str(entry.get("Metadata", "")))
        operator = _operator(name, kind, names, operators)
        layers.append(LayerInfo(name, operator, _precision(types), nodes=tuple(names)))
    return tuple(layers)


def _type_words(tensor: Mapping[str, Any]) -> str:
    """``Datatype`` alone since 11; before, one text such as "Row major linear FP16 format"."""
    words = str(tensor.get("Datatype") or tensor.get("Format/Datatype") or "")
    found = _TYPE.search(words)
    return found[1] if found else words


def _precision(types: Iterable[str]) -> str:
    first = next(iter(types), "none")
    return _PRECISIONS.get(first.lower(), first.lower())


def _operator(name: str, kind: str, onnx_names: list[str], operators: Mapping[str, str]) -> str:
    fallback = _MATRIX.get(kind.lower())
    if fallback is None and kind == "runtime_fusion":
        fallback = next((operator for part, operator in _FUSED.items() if part in name), None)
    if fallback is None:
        return kind
    for onnx_name in onnx_names:
        if operators.get(onnx_name) in _MATRIX_OPERATORS:
            return operators[onnx_name]
    return fallback


def _operators(file: OnnxFile | None) -> dict[str, str]:
    """ONNX operator by the name that TensorRT's parser gives a node."""
    operators = {}
    for node in file.nodes if file else ():
        if node.name or node.outputs:
            operators[node.name or f"node_of_{node.outputs[0]}"] = node.operator
    return operators
