"""torch → ONNX, ONNX files read safely, graph passes, and the check against torch."""

from __future__ import annotations

from edgevision.export.loading import load_onnx, save_onnx
from edgevision.export.numeric_check import NumericCheck, check_against_torch
from edgevision.export.to_onnx import ExportResult, export_onnx

__all__ = [
    "ExportResult",
    "NumericCheck",
    "check_against_torch",
    "export_onnx",
    "load_onnx",
    "save_onnx",
]
