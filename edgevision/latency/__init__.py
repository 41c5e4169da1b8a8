"""How long a network takes at other widths: measured on narrowed graphs, then predicted."""

from __future__ import annotations

from edgevision.latency.kept import KeptCells, KeptLengths, KeptTimes, place_of, structure_digest
from edgevision.latency.measure import measure_widths, quantize_narrowed
from edgevision.latency.model import LatencyModel, fit_latency, relative_errors
from edgevision.latency.record import WidthTimes, now
from edgevision.latency.shapes import WidthShapes, narrows_in_place, sample_widths

__all__ = [
    "KeptCells",
    "KeptLengths",
    "KeptTimes",
    "LatencyModel",
    "WidthShapes",
    "WidthTimes",
    "fit_latency",
    "measure_widths",
    "narrows_in_place",
    "now",
    "place_of",
    "quantize_narrowed",
    "relative_errors",
    "sample_widths",
    "structure_digest",
]
