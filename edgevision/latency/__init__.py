"""How long a network takes at other widths: measured on narrowed graphs, then predicted."""

from __future__ import annotations

from edgevision.latency.measure import measure_widths, quantize_narrowed
from edgevision.latency.model import LatencyModel, fit_latency, relative_errors
from edgevision.latency.shapes import WidthShapes, sample_widths

__all__ = [
    "LatencyModel",
    "WidthShapes",
    "fit_latency",
    "measure_widths",
    "quantize_narrowed",
    "relative_errors",
    "sample_widths",
]
