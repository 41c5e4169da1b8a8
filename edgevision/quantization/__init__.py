"""Post-training quantization: calibrate once, then emit one Q/DQ graph for each scheme."""

from __future__ import annotations

from edgevision.quantization.calibrate import calibrate
from edgevision.quantization.emit import EmitReport, NodePrecision, emit
from edgevision.quantization.lint import Finding, lint
from edgevision.quantization.schemes import Scheme, get_scheme, scheme_names
from edgevision.quantization.table import CalibrationTable, TensorRange

__all__ = [
    "CalibrationTable",
    "EmitReport",
    "Finding",
    "NodePrecision",
    "Scheme",
    "TensorRange",
    "calibrate",
    "emit",
    "get_scheme",
    "lint",
    "scheme_names",
]
