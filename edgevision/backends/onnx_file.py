"""What backends must know of an ONNX file before a vendor's parser sees it.

Reads the protobuf wire format of the few fields needed, so that it works in the base install and
costs no time on weights. Field numbers: onnx/onnx.proto3.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from edgevision.errors import ModelError
from edgevision.types import TensorSpec

_DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    16: "bfloat16",
}
_EXTERNAL = 1  # TensorProto.DataLocation
_MAX_DEPTH = 16  # subgraphs of If, Loop and Scan within one another


class _MalformedError(Exception):
    pass


@dataclass(frozen=True)
class OnnxNode:
    """One node of the main graph."""

    name: str
    operator: str
    domain: str
    outputs: tuple[str, ...]
    inputs: tuple[str, ...] = ()


@dataclass
class OnnxFile:
    """The file's bytes and what was read off them.

    ``external`` names the files that hold weights of tensors kept outside; ``inputs`` leaves out
    initializers; of an output without a shape in the file, that of ``outputs`` is empty.
    """

    path: Path
    data: bytes = field(repr=False)
    opsets: dict[str, int]
    nodes: tuple[OnnxNode, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    external: tuple[str, ...]

    @cached_property
    def sha256(self) -> str:
        """Hex SHA-256 of the whole file."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def is_quantized(self) -> bool:
        """Whether there is a DequantizeLinear in it."""
        return any(node.operator == "DequantizeLinear" for node in self.nodes)


def read_onnx(path: Path) -> OnnxFile:
    """Read ``path``.

    Raises:
        ModelError: no ONNX, cut short, without inputs, or with weights in other files.
    """
    data = path.read_bytes()
    try:
        file = _model(path, data)
    except (_MalformedError, UnicodeDecodeError) as error:
        raise ModelError(
            f"'{path.name}' is no whole ONNX file ({len(data)} bytes): {error}.",
            hint="It was cut short or is of another kind; export it again.",
        ) from error
    if not file.nodes or not file.inputs:
        raise ModelError(f"'{path.name}' holds no ONNX graph with nodes and inputs.")
    if file.external:
        raise ModelError(
            f"'{path.name}' keeps weights in another file: '{file.external[0][:100]}'.",
            hint="Save it as one file: onnx.save(onnx.load(path), path).",
        )
    return file


def _model(path: Path, data: bytes) -> OnnxFile:
    opsets: dict[str, int] = {}
    reader = _GraphReader()
    inputs: tuple[TensorSpec, ...] = ()
    for number, value in _fields(memoryview(data)):
        if number == 7:
            inputs = reader.graph(_message(value), 0)
        elif number == 8:
            entry = dict(_fields(_message(value)))
            domain = _text(entry.get(1, b""))
            opsets["" if domain == "ai.onnx" else domain] = _int(entry.get(2, 0))
        elif number == 25:  # functions hold nodes of their own
            for inner, part in _fields(_message(value)):
                if inner == 7:
                    reader.node(_message(part), 1)
    external = tuple(dict.fromkeys(reader.external))
    outputs = tuple(reader.outputs)
    return OnnxFile(path, data, opsets, tuple(reader.nodes), inputs, outputs, external)


class _GraphReader:
    def __init__(self) -> None:
        self.nodes: list[OnnxNode] = []
        self.outputs: list[TensorSpec] = []  # of the main graph
        self.external: list[str] = []

    def graph(self, data: memoryview, depth: int) -> tuple[TensorSpec, ...]:
        if depth > _MAX_DEPTH:
            raise _MalformedError(f"subgraphs nested deeper than {_MAX_DEPTH}")
        inputs: list[TensorSpec] = []
        constants: set[str] = set()
        for number, value in _fields(data):
            if number == 1:
                self.node(_message(value), depth)
            elif number == 5:
                constants.add(self.tensor(_message(value)))
            elif number == 15:
                self.sparse(_message(value))
            elif number == 11:
                inputs.append(_value_info(_message(value)))
            elif number == 12 and depth == 0:
                self.outputs.append(_value_info(_message(value)))
        return tuple(spec for spec in inputs if spec.name not in constants)

    def node(self, data: memoryview, depth: int) -> None:
        texts = {3: "", 4: "", 7: ""}
        inputs, outputs = [], []
        attributes = []
        for number, value in _fields(data):
            if number == 1:
                inputs.append(_text(value))
            elif number == 2:
                outputs.append(_text(value))
            elif number in texts:
                texts[number] = _text(value)
            elif number == 5:
                attributes.append(_message(value))
        if depth == 0:
            names = (texts[3], texts[4], texts[7])
            self.nodes.append(OnnxNode(*names, tuple(outputs), tuple(inputs)))
        for attribute in attributes:
            for number, value in _fields(attribute):
                if number in (5, 10):
                    self.tensor(_message(value))
                elif number in (6, 11):
                    self.graph(_message(value), depth + 1)
                elif number in (22, 23):
                    self.sparse(_message(value))

    def sparse(self, data: memoryview) -> None:
        for number, value in _fields(data):
            if number in (1, 2):  # its values and its indices are tensors
                self.tensor(_message(value))

    def tensor(self, data: memoryview) -> str:
        name = ""
        location = ""
        is_external = False
        for number, value in _fields(data):
            if number == 8:
                name = _text(value)
            elif number == 14:
                is_external = _int(value) == _EXTERNAL
            elif number == 13:
                entry = dict(_fields(_message(value)))
                if _text(entry.get(1, b"")) == "location":
                    location = _text(entry.get(2, b""))
        if is_external:
            self.external.append(location)
        return name


def _value_info(data: memoryview) -> TensorSpec:
    entry = dict(_fields(data))
    kind = dict(_fields(_message(entry.get(2, b""))))
    tensor = dict(_fields(_message(kind.get(1, b""))))
    shape: list[int | str] = []
    for number, value in _fields(_message(tensor.get(2, b""))):
        if number == 1:
            axis = dict(_fields(_message(value)))
            if 1 in axis:
                shape.append(_int(axis[1]))
            else:
                shape.append(_text(axis.get(2, b"")) or f"axis{len(shape)}")
    code = _int(tensor.get(1, 0))
    return TensorSpec(_text(entry.get(1, b"")), tuple(shape), _DTYPES.get(code, f"type{code}"))


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field number and value: an int, or the bytes of a length-delimited field."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        wire = key & 7
        if wire == 0:
            number, place = _varint(data, place)
            yield key >> 3, number
            continue
        if wire == 2:
            size, place = _varint(data, place)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise _MalformedError(f"wire type {wire} at byte {place}")
        if place + size > len(data):
            raise _MalformedError(f"a field of {size} bytes, {len(data) - place} left")
        yield key >> 3, data[place : place + size]
        place += size


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise _MalformedError("it ends inside a number")
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise _MalformedError("a number of more than ten bytes")


def _message(value: int | bytes | memoryview) -> memoryview:
    if isinstance(value, int):
        raise _MalformedError("a number where a message belongs")
    return memoryview(value)


def _text(value: int | bytes | memoryview) -> str:
    return bytes(_message(value)).decode()


def _int(value: int | bytes | memoryview) -> int:
    if not isinstance(value, int):
        raise _MalformedError("a message where a number belongs")
    return value
