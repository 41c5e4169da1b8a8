"""Find what a target would accept and then run wrongly, slowly or in float without a word."""

from __future__ import annotations

from pathlib import Path

import onnx

from edgevision.export.loading import load_onnx
from edgevision.quantization.lint_rules import LINT_RULES, Finding, QdqGraph
from edgevision.quantization.schemes import Scheme, get_scheme


def lint(onnx_path: Path, scheme: str) -> list[Finding]:
    """Check a Q/DQ graph, whoever made it, against what ``scheme``'s targets want.

    Returns:
        Findings in the order of the scheme's rules; empty when there is nothing to say.

    Raises:
        ModelError: the file is no valid ONNX model.
        UsageError: no such scheme.
    """
    chosen = get_scheme(scheme)
    return lint_model(load_onnx(onnx_path), chosen)


def lint_model(model: onnx.ModelProto, scheme: Scheme) -> list[Finding]:
    """The same for a model in memory."""
    graph = QdqGraph(model)
    return [finding for rule in scheme.lint for finding in LINT_RULES.get(rule)(graph, scheme)]


__all__ = ["Finding", "lint", "lint_model"]
