"""Runs a bundle on the device: numpy, Pillow and one vendor SDK, never torch."""

from __future__ import annotations

from edgevision.runtime.choose import Choice
from edgevision.runtime.session import FileResult, Model, PendingPrediction, load

__all__ = ["Choice", "FileResult", "Model", "PendingPrediction", "load"]
