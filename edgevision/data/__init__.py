"""Labelled images: sources, checks, augmentation and the calibration sampler.

Importing this package loads nothing heavy; ``load_data`` imports what its source needs.
"""

from __future__ import annotations

from edgevision.data.base import DataSplits, ImageDataset
from edgevision.data.loading import load_data

__all__ = ["DataSplits", "ImageDataset", "load_data"]
