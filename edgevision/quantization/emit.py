"""Write the Q/DQ graph of one scheme: the float graph, a calibration table, and the rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from edgevision.errors import ModelError
from edgevision.export.graph import opset_of
from edgevision.export.loading import load_onnx, save_onnx
from edgevision.files import sha256_file
from edgevision.quantization.equivalence import check_equivalent
from edgevision.quantization.half import SMALLEST_OPSET, to_half
from edgevision.quantization.insertion import insert_qdq
from edgevision.quantization.integer_forms import write_out
from edgevision.quantization.lint import Finding, lint_model
from edgevision.quantization.placement import NOTHING, node_name, place
from edgevision.quantization.rules.base import Plan, Refusal
from edgevision.quantization.schemes import get_scheme
from edgevision.quantization.table import CalibrationTable

MIN_OPSET = 13  # scales for each channel


@dataclass(frozen=True)
class NodePrecision:
    """What was asked for one node of the float graph.

    ``asked`` is ``"int8"``, ``"follows"`` (runs in what its neighbours leave it, or fuses into
    them) or ``"float"`` with the ``reason``.
    """

    name: str
    operator: str
    asked: str
    reason: str = ""


@dataclass(frozen=True)
class EmitReport:
    """What was written: one entry a node of the float graph, in its order.

    ``findings`` are the lint's warnings; with an error nothing is written at all.
    """

    path: Path
    scheme: str
    sha256: str
    nodes: tuple[NodePrecision, ...]
    findings: tuple[Finding, ...]

    def counts(self) -> dict[str, int]:
        """How many nodes were asked to run as ``int8``, ``follows`` and ``float``."""
        return dict(Counter(node.asked for node in self.nodes))


def emit(
    onnx_path: Path,
    table: CalibrationTable,
    scheme: str,
    output: Path,
    *,
    keep_float: Mapping[str, str] = NOTHING,
    half: bool = False,
) -> EmitReport:
    """Quantize the float model at ``onnx_path`` in the manner of ``scheme``.


    The graph written is linted, and proven to be the float graph again once its Q/DQ pairs are
    taken out, before operators without an integer kernel are written out into those that have one.
    The same model and table give the same bytes.

    Args:
        onnx_path: the float model that ``table`` was made from.
        table: of that model, by whatever method.
        scheme: name of a scheme.
        output: the file to write, whole or not at all.
        keep_float: nodes that stay in float, by name, each with why.
        half: compute the remainder in float16 where the scheme wants that. Below opset 18, which
            TensorRT 8 wants, it stays float32: the builder's FP16 flag takes its place.

    Raises:
        ModelError: the table belongs to another model, the opset is below 13, or nothing in the
            model can be quantized.
        UsageError: no such scheme.
        StorageError: the file cannot be written.
    """
    chosen = get_scheme(scheme)
    model = load_onnx(onnx_path)
    if sha256_file(onnx_path) != table.onnx_sha256:
        raise ModelError(
            f"The calibration table was made for another model than {onnx_path}.",
            hint="Calibrate again after every change of the float model.",
        )
    if opset_of(model) < MIN_OPSET:
        raise ModelError(
            f"{onnx_path}: quantizing wants opset {MIN_OPSET} or later, it has {opset_of(model)}.",
            hint="Export it again with opset 18.",
        )
    plan = place(model, chosen, keep_float)
    nodes = _node_precisions(model, plan)
    if not any(node.asked == "int8" for node in nodes):
        reasons = "; ".join(sorted({node.reason for node in nodes if node.reason})[:3])
        raise ModelError(f"{onnx_path}: nothing to quantize for scheme '{scheme}': {reasons}.")
    quantized = insert_qdq(model, plan, table, chosen)
    check_equivalent(quantized, model)
    forms = [
        position
        for position, node in enumerate(nodes)
        if node.asked == "int8" and node.operator in chosen.integer_forms
    ]
    if forms:
        quantized = write_out(quantized, forms)
    findings = [
        finding
        for finding in lint_model(quantized, chosen)
        # A layer meant to stay in float may read what its neighbours need on integers.
        if not (finding.rule == "half-quantized" and finding.node in keep_float)
    ]
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise AssertionError(f"the emitted graph fails its own lint: {errors}")
    if half and chosen.remainder == "float16" and opset_of(model) >= SMALLEST_OPSET:
        quantized = to_half(quantized, table=table)
    save_onnx(quantized, output)
    return EmitReport(output, scheme, sha256_file(output), nodes, tuple(findings))


def _node_precisions(model: onnx.ModelProto, plan: Plan) -> tuple[NodePrecision, ...]:
    nodes = []
    for position, node in enumerate(model.graph.node):
        outcome = plan.outcomes[position]
        asked = "float" if isinstance(outcome, Refusal) else outcome.value
        reason = outcome.reason if isinstance(outcome, Refusal) else ""
        nodes.append(NodePrecision(node_name(node), node.op_type, asked, reason))
    return tuple(nodes)
