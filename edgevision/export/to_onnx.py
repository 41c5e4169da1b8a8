"""One torch module becomes one ONNX file: checked, folded, and the same bytes every time."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from edgevision.errors import ModelError, UsageError
from edgevision.export.loading import save_onnx
from edgevision.export.passes import run_passes
from edgevision.export.passes.lower_opset import lower_opset
from edgevision.files import sha256_file
from edgevision.lazy import require
from edgevision.types import TensorSpec

if TYPE_CHECKING:
    from torch import nn

DEFAULT_OPSET = 18  # the oldest that the exporter writes by itself
MIN_OPSET = 17  # the oldest that a target asks for


@dataclass(frozen=True)
class ExportResult:
    """What was written.

    ``passes`` says how often each graph pass changed something; ``sha256`` is of the file.
    """

    path: Path
    opset: int
    sha256: str
    input_spec: TensorSpec
    output_specs: tuple[TensorSpec, ...]
    passes: dict[str, int]


def export_onnx(
    module: nn.Module,
    path: Path,
    *,
    input_spec: TensorSpec,
    output_names: Sequence[str],
    opset: int = DEFAULT_OPSET,
) -> ExportResult:
    """Export ``module`` in evaluation mode with torch's dynamo exporter.

    The module itself is not changed. Weights are stored inside the file, BatchNorm is folded,
    constants are initializers, and no path or stack trace of this machine stays in it.

    Args:
        module: network with one tensor input, on any device.
        path: the file to write, whole or not at all.
        input_spec: name, shape and dtype of the input; an axis given by name, as in
            ``("batch", 3, 32, 32)``, stays dynamic.
        output_names: one for each output of the module, in order.
        opset: version of the standard operators, from 17 on.

    Raises:
        ModelError: the module cannot be traced, holds NaN or infinite weights, or the graph is
            not valid; says what the exporter said.
        StorageError: the file cannot be written.
    """
    newest = onnx.defs.onnx_opset_version()
    if not MIN_OPSET <= opset <= newest:
        raise UsageError(f"opset must be {MIN_OPSET} to {newest}, got {opset}.")
    torch = require("torch")
    # The memory format of the weights would decide how the exporter writes reshapes.
    frozen = copy.deepcopy(module).cpu().to(memory_format=torch.contiguous_format).eval()
    for name, tensor in frozen.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"Weight '{name}' holds NaN or infinite values.")
    model = _trace(frozen, input_spec, list(output_names), max(opset, DEFAULT_OPSET))
    if len(model.graph.output) != len(output_names):
        raise ModelError(
            f"The module has {len(model.graph.output)} outputs, "
            f"{len(output_names)} names were given: {list(output_names)}."
        )
    passes = run_passes(model)
    model = lower_opset(model, opset)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(f"The exported graph is not valid ONNX: {error}") from error
    save_onnx(model, path)
    return ExportResult(
        path=path,
        opset=opset,
        sha256=sha256_file(path),
        input_spec=input_spec,
        output_specs=tuple(_spec(value) for value in model.graph.output),
        passes=passes,
    )


def _trace(
    module: nn.Module, spec: TensorSpec, output_names: list[str], opset: int
) -> onnx.ModelProto:
    torch = require("torch")
    # A batch of 1 would be taken for a constant; 2 keeps the axis dynamic.
    shape = [axis if isinstance(axis, int) else 2 for axis in spec.shape]
    dynamic = {i: torch.export.Dim(a) for i, a in enumerate(spec.shape) if isinstance(a, str)}
    example = torch.zeros(shape, dtype=getattr(torch, spec.dtype))
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                verbose=False,
                opset_version=opset,
                input_names=[spec.name],
                output_names=output_names,
                dynamic_shapes=(dynamic,) if dynamic else None,
                external_data=False,
            )
            model: onnx.ModelProto = program.model_proto
    except Exception as error:
        cause = error.__cause__ or error
        line = str(cause).strip().partition("\n")[0][:400]
        raise ModelError(
            f"The model cannot be exported to ONNX: {type(cause).__name__}: {line}",
            hint="Data-dependent Python control flow and operators without ONNX form stop it.",
        ) from error
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter: its advice is about its own internals, errors are raised anyway."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _spec(value: Any) -> TensorSpec:
    tensor = value.type.tensor_type
    shape = tuple(d.dim_param or d.dim_value for d in tensor.shape.dim)
    return TensorSpec(
        value.name, shape, onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    )
