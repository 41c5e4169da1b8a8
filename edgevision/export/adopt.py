"""ONNX files that others made become the float graph that quantization works on.

What a file holds is settled here once, so that nothing behind it asks where a model came from:
opset 13 or later, constants as initializers, BatchNorm folded, canonical node names, one float32
image input (N, C, H, W), the batch free where the graph allows it. The result is compared with the
file on ONNX Runtime.

Q/DQ pairs that are there are taken out, not refused: they were placed for some other runtime, and
the one that a user names here wants others (residual Adds, biases, uint8 against int8). Weights
keep the values that they dequantize to, so what quantization-aware training gave them stays; ranges
of activations are calibrated anew, on the user's images. Graphs of integer operators (QLinearConv,
ConvInteger) are refused: rounding between their layers is part of what they compute.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.inliner
from onnx import TensorProto, helper

from edgevision.errors import ModelError
from edgevision.export.graph import all_graphs, opset_of
from edgevision.export.head import classification_head
from edgevision.export.interface import (
    FLOATS,
    ImageInput,
    channels_first,
    find_image_input,
    free_reshapes,
    keep_input,
    set_input,
    set_output_shapes,
)
from edgevision.export.loading import load_onnx
from edgevision.export.passes import run_passes
from edgevision.export.passes.fold_affine import fold_affine
from edgevision.export.passes.fold_batchnorm import fold_batchnorm
from edgevision.export.passes.fold_constants import fold_constants
from edgevision.export.passes.identity import drop_identities
from edgevision.export.passes.lower_opset import lower_opset
from edgevision.export.passes.raise_opset import QUANTIZABLE_OPSET, raise_opset
from edgevision.export.passes.remove_qdq import remove_qdq
from edgevision.export.passes.restore_gates import restore_gates
from edgevision.export.passes.split_fused import split_fused
from edgevision.export.passes.sum_to_add import sum_to_add
from edgevision.export.passes.to_float32 import to_float32
from edgevision.export.running import Arrays, OnnxRun

Float32 = npt.NDArray[np.float32]

INPUT_NAME = "images"
# Of the output's range: float32 against float32, and against an original that rounds to 16 bits.
BOUND, BOUND_16_BITS = 1e-4, 3e-2
# Signal over noise against an original with Q/DQ. Rounding alone leaves some 20 dB in deep networks
# on noise; below this something else than rounding was lost with the pairs.
LEAST_SQNR_DB = 10.0


@dataclass(frozen=True)
class AdoptionCheck:
    """How far the adopted graph is from the file, on ONNX Runtime.

    Attributes:
        max_rel: largest difference over each output's range.
        sqnr_db: lowest signal-to-noise ratio of an output, None where all are equal.
        images: how many were compared.
    """

    max_rel: float
    sqnr_db: float | None
    images: int


@dataclass(frozen=True)
class Adopted:
    """A float graph in canonical form.

    Attributes:
        model: one input ``"images"``, float32 (N, C, H, W).
        image: the input as it was in the file.
        batch: what the batch is fixed to, None where any goes.
        notes: what was changed, a line each, for the user.
        check: against the file.
    """

    model: onnx.ModelProto
    image: ImageInput
    batch: int | None
    notes: tuple[str, ...]
    check: AdoptionCheck


def adopt(
    path: Path,
    *,
    opset: int = 18,
    size: tuple[int, int] = (224, 224),
    classes: int | None = None,
    output_name: str = "logits",
    images: Float32 | None = None,
) -> Adopted:
    """Read the ONNX file at ``path`` and bring it into canonical form.

    Args:
        path: ``.onnx`` of any exporter; external data lies beside it.
        opset: newest version of the standard operators that the target takes. Older ones, from 13
            on, stay as they are.
        size: (height, width) of the image where the graph leaves them free.
        classes: of a classifier: the output that has as many columns is the one kept, as
            ``output_name`` and without its Softmax. None: all outputs stay as they are.
        images: (N, C, H, W) float32, preprocessed, N >= 2, to compare on; None: seeded noise.

    Raises:
        ModelError: damaged or hostile, no image input, an operator that ONNX Runtime cannot run,
            integer operators, no output for ``classes``, an opset that cannot be reached, or a
            result that computes something else.
    """
    source = load_onnx(path)
    try:
        return _adopt(source, opset, size, classes, output_name, images, str(path))
    except ModelError as error:
        if error.message.startswith(str(path)):
            raise
        raise ModelError(f"{path}: {error.message}", hint=error.hint) from error


def image_input(path: Path) -> ImageInput:
    """The input of the file at ``path`` that takes the image, without adopting it.

    Raises:
        ModelError: as ``adopt``.
    """
    source = load_onnx(path)
    try:
        return find_image_input(source)
    except ModelError as error:
        raise ModelError(f"{path}: {error.message}", hint=error.hint) from error


def _adopt(
    source: onnx.ModelProto,
    opset: int,
    size: tuple[int, int],
    classes: int | None,
    output_name: str,
    images: Float32 | None,
    what: str,
) -> Adopted:
    notes: list[str] = []
    _refuse_integers(source)
    # Newer file formats only add types; the oldest that has the operators is read everywhere.
    oldest = helper.find_min_ir_version_for(list(source.opset_import), ignore_unknown=True)
    source.ir_version = min(source.ir_version, max(oldest, 8))
    image = find_image_input(source)
    keep_input(source, image.name)
    shape = (image.channels, image.height or size[0], image.width or size[1])
    if images is None:
        images = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    chunk = image.batch or 1
    expected = _run_file(source, image, images, chunk, what)

    model, exact = _as_float(source, notes)
    channels_first(model, image)
    if image.layout == "NHWC":
        notes.append(f"input '{image.name}' has its channels last; it takes (N, C, H, W) now")
    model, batch = _settle_batch(model, image, shape, images, what)
    if batch is not None:
        notes.append(f"its batch stays {batch}: the graph does not run with another")
    run = OnnxRun(model, what)
    found = _run_chunks(run, INPUT_NAME, images, batch or chunk)
    check = _compare(expected, found, exact, len(images))
    if exact is None and check.sqnr_db is not None:
        notes.append(f"without Q/DQ its outputs are {check.sqnr_db:.1f} dB from the file's")
    if classes is not None:
        notes += classification_head(model, found, images[: batch or 1], classes, output_name)
        run = OnnxRun(model, what)
    ran = batch or 2
    set_output_shapes(model, run({INPUT_NAME: _rows(images, ran)}), batch or "batch", ran)
    if opset_of(model) > opset:
        notes.append(f"opset {opset_of(model)} lowered to {opset}")
        model = _lowered(model, opset, images, batch, what)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        line = str(error).strip().partition("\n")[0][:300]
        raise ModelError(f"What it was brought to is not valid ONNX: {line}") from error
    return Adopted(model, image, batch, tuple(notes), check)


def _refuse_integers(model: onnx.ModelProto) -> None:
    starts = ("QLinear", "QGemm", "QAttention", "QOrdered", "QEmbed", "QMoE", "DynamicQuantize")
    nodes = [node for graph in all_graphs(model.graph) for node in graph.node]
    nodes += [node for function in model.functions for node in function.node]
    found = Counter(
        node.op_type
        for node in nodes
        if node.op_type.startswith(starts)
        or "Integer" in node.op_type
        or node.op_type == "MatMulNBits"
    )
    if found:
        listed = ", ".join(f"{name} ({count})" for name, count in sorted(found.items()))
        raise ModelError(
            f"The model is integer already: {listed}; there is no float graph in it to quantize.",
            hint="Give the float model that it was made from, or one in Q/DQ form.",
        )


def _as_float(source: onnx.ModelProto, notes: list[str]) -> tuple[onnx.ModelProto, float | None]:
    """``source`` in float32 and opset 13 or later, and the bound of its check (None: Q/DQ)."""
    model = onnx.ModelProto()
    model.CopyFrom(source)
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    before = opset_of(model)
    model = raise_opset(model)
    if opset_of(model) != before:
        notes.append(f"opset {before} raised to {QUANTIZABLE_OPSET}")
    exact: float | None = BOUND
    if to_float32(model):
        notes.append("its 16- or 64-bit floats are float32 now")
        exact = BOUND_16_BITS
    fold_constants(model)
    if split_fused(model):
        notes.append("layers that ONNX Runtime had fused are standard operators again")
    operators = [node.op_type for node in source.graph.node]
    if pairs := sum(operators.count(name) for name in ("QuantizeLinear", "DequantizeLinear")):
        restore_gates(model)
        remove_qdq(model)
        notes.append(
            f"{pairs} Q/DQ nodes are taken out: weights keep their dequantized values, activations "
            "are calibrated anew"
        )
        exact = None
    sum_to_add(model)
    drop_identities(model)
    fold_batchnorm(model)
    fold_affine(model)
    return model, exact


def _settle_batch(
    model: onnx.ModelProto,
    image: ImageInput,
    shape: tuple[int, int, int],
    images: Float32,
    what: str,
) -> tuple[onnx.ModelProto, int | None]:
    """The canonical graph with a free batch where two images at once give what one by one gives."""
    given = image.batch or 1
    for frees in (False, True):
        candidate = onnx.ModelProto()
        candidate.CopyFrom(model)
        if frees and not free_reshapes(candidate, given):
            break
        candidate = _canonical(candidate, image, ("batch", *shape), what)
        if _takes_any_batch(candidate, images, what):
            return candidate, None
    if given != 1:
        raise ModelError(
            f"Its batch is fixed to {given} and the graph does not run with another.",
            hint="Export it again with a dynamic batch, or with a batch of 1.",
        )
    return _canonical(model, image, (1, *shape), what), 1


def _canonical(
    model: onnx.ModelProto, image: ImageInput, shape: tuple[int | str, ...], what: str
) -> onnx.ModelProto:
    set_input(model, image.name, INPUT_NAME, shape)
    del model.graph.value_info[:]  # sizes of another batch, or of other types
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    model.graph.value_info.extend(_types_of_custom(model, what))
    try:
        model = onnx.shape_inference.infer_shapes(model)
    except (onnx.shape_inference.InferenceError, RuntimeError) as error:
        line = str(error).strip().partition("\n")[0][:300]
        raise ModelError(f"Its shapes contradict one another: {line}") from error
    run_passes(model)
    return model


def _types_of_custom(model: onnx.ModelProto, what: str) -> list[onnx.ValueInfoProto]:
    """Types of what operators of other domains make, which only ONNX Runtime knows."""
    names = [
        name
        for node in model.graph.node
        if node.domain not in ("", "ai.onnx")
        for name in node.output
        if name
    ]
    known = {value.name for value in model.graph.output}
    names = [name for name in names if name not in known]
    if not names:
        return []
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    facts = OnnxRun(probe, what, optimize=False).outputs()
    return [
        helper.make_tensor_value_info(
            name,
            TensorProto.FLOAT,
            [axis if isinstance(axis, int) else (axis or None) for axis in facts[name].shape],
        )
        for name in names
        if facts[name].type == "tensor(float)"
    ]


def _takes_any_batch(model: onnx.ModelProto, images: Float32, what: str) -> bool:
    try:
        run = OnnxRun(model, what)
        one_by_one = _run_chunks(run, INPUT_NAME, images[:2], 1)
        together = run({INPUT_NAME: images[:2]})
    except ModelError:
        return False
    rows = [(a, b) for a, b in zip(one_by_one, together, strict=True)]
    if any(a.shape != b.shape or a.ndim == 0 or len(a) != 2 for a, b in rows):
        return False
    return all(_relative(a, b) <= BOUND for a, b in rows)


def _run_file(
    source: onnx.ModelProto, image: ImageInput, images: Float32, chunk: int, what: str
) -> Arrays:
    """Outputs of the file as it is, fed in its own layout and type."""
    value = next(v for v in source.graph.input if v.name == image.name)
    kind = value.type.tensor_type.elem_type
    if kind not in FLOATS or kind == TensorProto.BFLOAT16:
        raise ModelError(f"Its input '{image.name}' is bfloat16, which cannot be fed from numpy.")
    feed: npt.NDArray[Any] = images if image.layout == "NCHW" else images.transpose(0, 2, 3, 1)
    feed = np.ascontiguousarray(feed, helper.tensor_dtype_to_np_dtype(kind))
    outputs = _run_chunks(OnnxRun(source, what), image.name, feed, chunk)
    for value, output in zip(source.graph.output, outputs, strict=True):
        if output.dtype.kind == "f" and not np.isfinite(output).all():
            raise ModelError(f"Output '{value.name}' holds NaN or infinite values.")
    return outputs


def _run_chunks(run: OnnxRun, name: str, images: npt.NDArray[Any], chunk: int) -> Arrays:
    """Outputs of all ``images``, ``chunk`` a call, joined; single numbers become rows."""
    parts = []
    for start in range(0, len(images), chunk):
        parts.append(run({name: _rows(images[start : start + chunk], chunk)}))
    return [
        np.concatenate([np.atleast_1d(part[i]) for part in parts]) for i in range(len(parts[0]))
    ]


def _rows(images: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """``count`` images, the first ones again where there are fewer."""
    return np.ascontiguousarray(images[np.arange(count) % len(images)])


def _compare(expected: Arrays, found: Arrays, exact: float | None, images: int) -> AdoptionCheck:
    max_rel, lowest = 0.0, np.inf
    for want, have in zip(expected, found, strict=True):
        if want.shape != have.shape:
            raise ModelError(f"Brought into our form an output is {have.shape}, was {want.shape}.")
        max_rel = max(max_rel, _relative(want, have))
        noise = float(np.square(want.astype(np.float64) - have).sum())
        signal = float(np.square(want.astype(np.float64)).sum())
        if noise and signal:
            lowest = min(lowest, 10 * np.log10(signal / noise))
    hint = "The model is random or keeps a state, or this is a defect worth reporting."
    if exact is not None and max_rel > exact:
        raise ModelError(
            f"Brought into our form it computes something else: {max_rel:.1e} of the output's "
            f"range apart, allowed is {exact:.0e}.",
            hint=hint,
        )
    if exact is None and lowest < LEAST_SQNR_DB:
        raise ModelError(
            f"Without its Q/DQ it computes something else: {lowest:.1f} dB from the file's "
            f"outputs, at least {LEAST_SQNR_DB:g} are wanted.",
            hint="Give the float model that it was made from.",
        )
    return AdoptionCheck(max_rel, None if np.isinf(lowest) else float(lowest), images)


def _relative(want: npt.NDArray[Any], have: npt.NDArray[Any]) -> float:
    if not want.size:
        return 0.0
    a, b = want.astype(np.float64), have.astype(np.float64)
    return float(np.abs(a - b).max()) / (float(a.max() - a.min()) or 1.0)


def _lowered(
    model: onnx.ModelProto, opset: int, images: Float32, batch: int | None, what: str
) -> onnx.ModelProto:
    feed = {INPUT_NAME: _rows(images, batch or 2)}
    before = OnnxRun(model, what)(feed)
    model = lower_opset(model, opset)
    after = OnnxRun(model, what)(feed)
    _compare(before, after, BOUND, len(feed[INPUT_NAME]))
    return model
