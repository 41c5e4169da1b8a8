"""Calibrators, by name. A new one is its file and one line here."""

from __future__ import annotations

from edgevision.quantization.calibrators.base import Observer
from edgevision.registry import Registry

CALIBRATORS: Registry[type[Observer]] = Registry("calibration method")
CALIBRATORS.add("average", "edgevision.quantization.calibrators.average:AverageObserver")
CALIBRATORS.add("entropy", "edgevision.quantization.calibrators.entropy:EntropyObserver")
CALIBRATORS.add("minmax", "edgevision.quantization.calibrators.minmax:MinMaxObserver")
CALIBRATORS.add("mse", "edgevision.quantization.calibrators.mse:MseObserver")
CALIBRATORS.add("percentile", "edgevision.quantization.calibrators.percentile:PercentileObserver")

__all__ = ["CALIBRATORS", "Observer"]
