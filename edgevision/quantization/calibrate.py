"""One pass over the calibration images: each tensor's range, in memory that stays constant."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from edgevision.devices.local import usable_cores
from edgevision.errors import DataError, ModelError, UsageError
from edgevision.export.graph import Graph
from edgevision.export.loading import load_onnx
from edgevision.files import sha256_file
from edgevision.quantization.calibrators import CALIBRATORS
from edgevision.quantization.integer_forms import useful_range
from edgevision.quantization.observation import Feeds, Probe, observe, open_lanes
from edgevision.quantization.placement import place
from edgevision.quantization.schemes import get_scheme, scheme_names
from edgevision.quantization.table import CalibrationTable

Array = npt.NDArray[Any]
Batch = Array | Mapping[str, Array]


def calibrate(
    onnx_path: Path,
    batches: Iterable[Batch],
    *,
    method: str = "percentile",
    calibration_digest: str = "",
    threads: int | None = None,
    processes: int = 1,
    progress: Callable[[int], None] | None = None,
) -> CalibrationTable:
    """Observe the activations of a float model on calibration images.

    Every tensor that any scheme quantizes is observed, so one table serves them all. The images
    go through ONNX Runtime one at a time, each on one thread, however they are batched and
    whoever takes them: the table depends on the images alone, bit for bit, not on batch size,
    order, threads or processes, and memory not on their number.

    Args:
        onnx_path: float ONNX file. Its batch axis is dynamic or 1; other axes may be dynamic too.
        batches: (N, C, H, W) float32 arrays, preprocessed as for the network; N, and where the
            model's axes are dynamic H and W, may differ from batch to batch. For several inputs
            dictionaries of arrays by input name, in the model's dtypes, the first axis the
            images; float32 inputs are observed where a scheme quantizes them, others only fed.
        method: name of a calibrator.
        calibration_digest: of the calibration set's manifest, kept in the table.
        threads: images at the same time in this process, None: one a core. With several
            processes each has one thread.
        processes: 1: this one. More: that many others, fed from here, for many cores or where
            Python's lock holds threads back.
        progress: called with the number of images seen so far.

    Raises:
        ModelError: the model cannot be run, or its activations hold NaN.
        DataError: no images, or of the wrong names, shape, dtype or with NaN.
        UsageError: no such method, or threads and processes that do not fit together.
        EdgeVisionError: a calibration process was killed.
    """
    lanes = _lanes(threads, processes)
    observer_class = CALIBRATORS.get(method)
    model = load_onnx(onnx_path)
    graph = Graph(model)
    inputs = [_input(value) for value in model.graph.input if value.name in graph.inputs]
    tensors = observed_tensors(model)
    if not tensors:
        raise ModelError(f"{onnx_path}: no scheme finds anything to quantize in it.")
    # In the graph's order, so that the first tensor that goes wrong is the one named.
    inner = [name for node in graph.nodes for name in node.output if name in tensors]
    sources = [name for name in graph.inputs if name in tensors]
    probe = Probe(_with_outputs(model, inner), tuple(inner), tuple(sources), observer_class)
    images = 0

    def done() -> None:
        nonlocal images
        images += 1
        if progress is not None:
            progress(images)

    opened = open_lanes(probe, processes=processes, threads=lanes)
    observers = observe(opened, _images(batches, inputs), done)
    if not images:
        raise DataError("No calibration images were given.")
    return CalibrationTable(
        method=method,
        settings=observer_class.settings,
        images=images,
        onnx_sha256=sha256_file(onnx_path),
        calibration_digest=calibration_digest,
        tensors={
            name: observers[name].result().inside(*useful_range(graph, name)) for name in tensors
        },
    )


def recalibrated(
    table: CalibrationTable, model: onnx.ModelProto, method: str
) -> CalibrationTable | None:
    """``table`` as another calibrator would have made it from the same images, without them.

    Scales of weights stay, and corrections of biases, though they were measured under the ranges
    that were. None where ``table`` has no histograms (its calibrator made none, or its ranges were
    learned), or ``method`` wants to know more than they tell.

    Args:
        model: what ``table`` was made from.

    Raises:
        UsageError: no such method.
    """
    observer_class, graph = CALIBRATORS.get(method), Graph(model)
    tensors = {}
    for name, seen in table.tensors.items():
        observer = observer_class.of(seen) if seen.histogram is not None else None
        if observer is None:
            return None
        tensors[name] = observer.result().inside(*useful_range(graph, name))
        tensors[name] = replace(tensors[name], histogram=seen.histogram)
    own = CALIBRATORS.get(table.method).settings if table.method in CALIBRATORS else {}
    kept = {key: value for key, value in table.settings.items() if key not in own}
    settings = kept | observer_class.settings
    return replace(table, method=method, settings=settings, tensors=tensors)


def recalibrations(table: CalibrationTable, model: onnx.ModelProto) -> Iterator[CalibrationTable]:
    """``recalibrated`` by every other calibrator that can do it."""
    for method in CALIBRATORS.names():
        other = recalibrated(table, model, method) if method != table.method else None
        if other is not None:
            yield other


def observed_tensors(model: onnx.ModelProto) -> list[str]:
    """Names of all activation tensors that any registered scheme quantizes, sorted."""
    wanted: set[str] = set()
    for name in scheme_names():
        plan = place(model, get_scheme(name))
        wanted |= plan.activations.keys()
        wanted = wanted.union(*plan.scale_groups)
    return sorted(wanted)


def _lanes(threads: int | None, processes: int) -> int:
    """Threads of this process that take images."""
    if processes < 1:
        raise UsageError(f"processes must be at least 1, got {processes}.")
    if threads is None:
        return usable_cores()
    if threads < 1:
        raise UsageError(f"threads must be at least 1, got {threads}.")
    if processes > 1 and threads > 1:
        raise UsageError(
            f"With {processes} processes each has one thread; expected threads 1, got {threads}.",
            hint=f"For the same load: processes={processes * threads}.",
        )
    return threads


def _with_outputs(model: onnx.ModelProto, names: list[str]) -> bytes:
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    data: bytes = probe.SerializeToString()
    return data


@dataclass(frozen=True)
class _Input:
    """What one input takes: ``shape`` of one image, None where any size will do."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]


def _input(value: onnx.ValueInfoProto) -> _Input:
    tensor = value.type.tensor_type
    if not tensor.elem_type:
        raise ModelError(f"Input '{value.name}' is no tensor; calibration feeds arrays only.")
    dims = [d.dim_value if d.dim_value > 0 else None for d in tensor.shape.dim]
    if not dims:
        raise ModelError(
            f"Input '{value.name}' has no batch axis; calibration runs one image at a time.",
            hint="Export the model with a batch axis on every input.",
        )
    if (dims[0] or 1) > 1:
        raise ModelError(
            f"Input '{value.name}' has a fixed batch of {dims[0]}; calibration runs one image at "
            "a time.",
            hint="Export the model with a dynamic batch, or with a batch of 1.",
        )
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return _Input(value.name, dtype, tuple(dims[1:]))


def _images(batches: Iterable[Batch], inputs: list[_Input]) -> Iterator[Feeds]:
    """What ONNX Runtime takes for each image, read as it is asked for."""
    for batch in batches:
        arrays = _by_name(batch, inputs)
        for one in inputs:
            _check(arrays[one.name], one)
        counts = {name: len(array) for name, array in arrays.items()}
        if len(set(counts.values())) > 1:
            raise DataError(f"A calibration batch must have as many of each input, got {counts}.")
        for index in range(min(counts.values())):
            yield {
                name: np.ascontiguousarray(array[index : index + 1])
                for name, array in arrays.items()
            }


def _by_name(batch: Batch, inputs: list[_Input]) -> Mapping[str, Array]:
    names = [one.name for one in inputs]
    if isinstance(batch, Mapping):
        if sorted(batch) != sorted(names):
            raise DataError(
                f"A calibration batch must have the inputs {sorted(names)}, got {sorted(batch)}."
            )
        return batch
    if len(names) != 1:
        raise DataError(
            f"The model has the inputs {names}; expected dictionaries of arrays by input name, "
            f"got {type(batch).__name__}."
        )
    return {names[0]: batch}


def _check(array: Any, one: _Input) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != one.dtype:
        kind = getattr(array, "dtype", type(array).__name__)
        raise DataError(
            f"A calibration batch for input '{one.name}' must be a {one.dtype} array, got {kind}."
        )
    fits = array.ndim == len(one.shape) + 1 and all(
        want is None or want == have for want, have in zip(one.shape, array.shape[1:], strict=True)
    )
    if not fits:
        want_text = ", ".join("any" if axis is None else str(axis) for axis in one.shape)
        raise DataError(
            f"Calibration images for input '{one.name}' expected: (N, {want_text}), got "
            f"{array.shape}."
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"A calibration image for input '{one.name}' holds NaN or infinite values.")
