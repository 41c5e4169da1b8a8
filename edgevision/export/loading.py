"""ONNX files in and out: read without trusting them, written whole or not at all."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]
from onnx import TensorProto

from edgevision.errors import ModelError, StorageError
from edgevision.export.graph import all_graphs, opset_of
from edgevision.files import sha256_file, write_atomic

MIN_OPSET = 7  # the oldest that ONNX Runtime runs
MAX_BYTES = 2**31 - 1  # protobuf's own limit on one message


def load_onnx(path: Path) -> onnx.ModelProto:
    """Read an ONNX file that may come from anywhere; external data ends up inside the model.

    External data is read only from regular files in the model's own folder: no absolute paths,
    no ``..``, no links on the way, no ranges beyond the file, lengths that fit shape and dtype.

    Raises:
        ModelError: missing, truncated, not ONNX, an opset that is not supported, hostile
            external data, or a graph that ``onnx.checker`` refuses.
    """
    if not path.is_file():
        raise ModelError(f"No ONNX file at {path}.")
    size = path.stat().st_size
    if not 0 < size <= MAX_BYTES:
        raise ModelError(f"{path}: expected 1 to {MAX_BYTES} bytes, the file has {size}.")
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(path.read_bytes())
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}.") from error
    except (DecodeError, RuntimeError) as error:
        raise ModelError(
            f"{path}: not an ONNX model, or truncated ({size} bytes).",
            hint="Export it again, or compare its size with the original.",
        ) from error
    if not model.graph.node or not model.opset_import:
        raise ModelError(f"{path}: holds no ONNX graph; is it another kind of file, or truncated?")
    _check_opset(path, model)
    budget = MAX_BYTES - size
    for tensor in _tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            budget -= _read_external(path, tensor)
            if budget < 0:
                raise ModelError(f"{path}: with its external data it is over {MAX_BYTES} bytes.")
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(f"{path}: not a valid ONNX model: {_first_line(error)}") from error
    return model


def onnx_files(path: Path) -> dict[str, str]:
    """Name → sha256 of the ONNX file at ``path``, first, and of the files with its external data.

    For a file that ``load_onnx`` took: the same names are refused.
    """
    model = onnx.ModelProto.FromString(path.read_bytes())
    found = {path.name: sha256_file(path)}
    for tensor in _tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            location = next((e.value for e in tensor.external_data if e.key == "location"), "")
            if location not in found:
                found[location] = sha256_file(_contained(path, location, str(path)))
    return found


def save_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Write ``model`` to ``path`` with everything inside one file; same model, same bytes.

    Raises:
        ModelError: over protobuf's 2 GiB limit.
        StorageError: the file cannot be written; nothing is left half-written.
    """
    try:
        data = model.SerializeToString(deterministic=True)
    except (EncodeError, ValueError) as error:
        raise ModelError(f"The model does not fit into one ONNX file of 2 GiB: {error}") from error
    try:
        write_atomic(path, data)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}.") from error


def _check_opset(path: Path, model: onnx.ModelProto) -> None:
    newest = onnx.defs.onnx_opset_version()
    opset = opset_of(model)
    if not MIN_OPSET <= opset <= newest:
        raise ModelError(
            f"{path}: expected opset {MIN_OPSET} to {newest} of the standard operators, "
            f"the model has {opset or 'none'}.",
            hint="Export it again with an opset in that range, e.g. 18.",
        )


def _tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    graphs = list(all_graphs(model.graph))
    nodes = [node for graph in graphs for node in graph.node]
    for function in model.functions:
        nodes.extend(function.node)
    for training in model.training_info:
        graphs += [*all_graphs(training.initialization), *all_graphs(training.algorithm)]
    for graph in graphs:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in nodes:
        for item in node.attribute:
            yield from (item.t, *item.tensors)
            for sparse in (item.sparse_tensor, *item.sparse_tensors):
                yield from (sparse.values, sparse.indices)


def _read_external(path: Path, tensor: TensorProto) -> int:
    """Move the external bytes of ``tensor`` into it; returns how many."""
    fields = {entry.key: entry.value for entry in tensor.external_data}
    what = f"{path}: external data of tensor '{tensor.name}'"
    file = _contained(path, fields.get("location", ""), what)
    size = file.stat().st_size
    try:
        offset = int(fields.get("offset", "0"))
        length = int(fields.get("length", str(size - offset)))
    except ValueError as error:
        raise ModelError(f"{what}: offset and length must be whole numbers.") from error
    if offset < 0 or length < 0 or offset + length > size:
        raise ModelError(
            f"{what}: expected a range inside the {size} bytes of {file.name}, "
            f"got offset {offset} and length {length}."
        )
    count = int(np.prod(tensor.dims, dtype=object)) if tensor.dims else 1
    try:
        item = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except (KeyError, TypeError) as error:
        raise ModelError(f"{what}: unknown data type {tensor.data_type}.") from error
    # Types under one byte are packed, so only an upper bound is known for them.
    packed = tensor.data_type >= TensorProto.UINT4
    if length > count * item or (not packed and length != count * item):
        raise ModelError(f"{what}: expected {count * item} bytes for its shape, got {length}.")
    with file.open("rb") as stream:
        stream.seek(offset)
        tensor.raw_data = stream.read(length)
    tensor.data_location = TensorProto.DEFAULT
    del tensor.external_data[:]
    return length


def _contained(path: Path, location: str, what: str) -> Path:
    """The regular file called ``location`` inside the folder of ``path``."""
    parts = Path(location.replace("\\", "/")).parts
    outside = (
        not location
        or Path(location).is_absolute()
        or ".." in parts
        or "\0" in location
        or ":" in (parts[0] if parts else "")
    )
    if outside:
        raise ModelError(f"{what} must lie in the model's own folder, not at {location!r}.")
    file = path.parent
    for part in parts:
        file = file / part
        try:
            mode = file.lstat().st_mode
        except OSError as error:
            raise ModelError(f"{what}: no file {location!r} beside the model.") from error
        if stat.S_ISLNK(mode):
            raise ModelError(f"{what}: {location!r} is or passes through a link, which is refused.")
    if not stat.S_ISREG(mode):
        raise ModelError(f"{what}: {location!r} is not a regular file.")
    return file


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]
