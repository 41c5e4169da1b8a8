"""One pass over the calibration images: each tensor's range, in memory that stays constant."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from edgevision.errors import DataError, ModelError, UsageError
from edgevision.export.graph import Graph
from edgevision.export.loading import load_onnx
from edgevision.files import sha256_file
from edgevision.quantization.calibrators import CALIBRATORS, Observer
from edgevision.quantization.placement import place
from edgevision.quantization.schemes import get_scheme, scheme_names
from edgevision.quantization.table import CalibrationTable

Float32 = npt.NDArray[np.float32]


def calibrate(
    onnx_path: Path,
    batches: Iterable[Float32],
    *,
    method: str = "percentile",
    calibration_digest: str = "",
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> CalibrationTable:
    """Observe the activations of a float model on calibration images.

    Every tensor that any scheme quantizes is observed, so one table serves them all. The images
    go through ONNX Runtime one at a time however they are batched: the table depends on the
    images alone, not on batch size, order or split, and memory not on their number.

    Args:
        onnx_path: float ONNX file with one input, float32.
        batches: (N, C, H, W) float32 arrays, preprocessed as for the network.
        method: name of a calibrator.
        calibration_digest: of the calibration set's manifest, kept in the table.
        threads: of ONNX Runtime, None for its own choice.
        progress: called with the number of images seen so far.

    Raises:
        ModelError: the model cannot be run, or its activations hold NaN.
        DataError: no images, or of the wrong shape, dtype or with NaN.
        UsageError: no such method.
    """
    observer_class = CALIBRATORS.get(method)
    model = load_onnx(onnx_path)
    graph = Graph(model)
    if len(graph.inputs) != 1:
        raise ModelError(f"{onnx_path}: calibration wants one input, it has {graph.inputs}.")
    tensors = observed_tensors(model)
    if not tensors:
        raise ModelError(f"{onnx_path}: no scheme finds anything to quantize in it.")
    source = graph.inputs[0]
    # In the graph's order, so that the first tensor that goes wrong is the one named.
    inner = [name for node in graph.nodes for name in node.output if name in tensors]
    run = _runner(model, source, inner, threads)
    shape = _image_shape(model, source)
    observers: dict[str, Observer] = {name: observer_class() for name in tensors}
    images = 0
    for batch in batches:
        _check_batch(batch, shape)
        for image in batch:
            values = run(image[None])
            if source in observers:
                _observe(observers[source], source, image)
            for name, value in zip(inner, values, strict=True):
                _observe(observers[name], name, value)
            images += 1
            if progress is not None:
                progress(images)
    if not images:
        raise DataError("No calibration images were given.")
    return CalibrationTable(
        method=method,
        settings=observer_class.settings,
        images=images,
        onnx_sha256=sha256_file(onnx_path),
        calibration_digest=calibration_digest,
        tensors={name: observers[name].result() for name in tensors},
    )


def observed_tensors(model: onnx.ModelProto) -> list[str]:
    """Names of all activation tensors that any registered scheme quantizes, sorted."""
    wanted: set[str] = set()
    for name in scheme_names():
        plan = place(model, get_scheme(name))
        wanted |= plan.activations.keys()
        wanted = wanted.union(*plan.scale_groups)
    return sorted(wanted)


def _runner(
    model: onnx.ModelProto, source: str, inner: list[str], threads: int | None
) -> Callable[[Float32], list[Float32]]:
    import onnxruntime

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        if threads < 1:
            raise UsageError(f"threads must be at least 1, got {threads}.")
        options.intra_op_num_threads = threads
    try:
        session: Any = onnxruntime.InferenceSession(
            probe.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise ModelError(f"ONNX Runtime cannot run the model: {error}") from error

    def run(image: Float32) -> list[Float32]:
        try:
            outputs: list[Float32] = session.run(inner, {source: image})
        except Exception as error:
            raise ModelError(f"ONNX Runtime failed while calibrating: {error}") from error
        return outputs

    return run


def _image_shape(model: onnx.ModelProto, source: str) -> tuple[int | None, ...]:
    value = next(v for v in model.graph.input if v.name == source)
    dims = value.type.tensor_type.shape.dim
    first = dims[0].dim_value if dims else 0
    if first > 1:
        raise ModelError(
            f"Input '{source}' has a fixed batch of {first}; calibration runs one image at a time.",
            hint="Export the model with a dynamic batch, or with a batch of 1.",
        )
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in dims[1:])


def _check_batch(batch: Any, shape: tuple[int | None, ...]) -> None:
    if not isinstance(batch, np.ndarray) or batch.dtype != np.float32:
        kind = getattr(batch, "dtype", type(batch).__name__)
        raise DataError(f"A calibration batch must be a float32 array, got {kind}.")
    fits = batch.ndim == len(shape) + 1 and all(
        want is None or want == have for want, have in zip(shape, batch.shape[1:], strict=True)
    )
    if not fits:
        want_text = ", ".join("any" if axis is None else str(axis) for axis in shape)
        raise DataError(f"Calibration images expected: (N, {want_text}), got {batch.shape}.")
    if not np.isfinite(batch).all():
        raise DataError("A calibration image holds NaN or infinite values.")


def _observe(observer: Observer, name: str, value: Float32) -> None:
    try:
        observer.observe(value)
    except ModelError as error:
        raise ModelError(f"Tensor '{name}': {error.message}") from error
