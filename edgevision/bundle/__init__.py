"""The bundle: one folder or zip with the model, its proof and its hashes."""

from __future__ import annotations

from edgevision.bundle.engines import add_engine
from edgevision.bundle.manifest import (
    SCHEMA_VERSION,
    AccuracyVerdict,
    ArtifactEntry,
    Golden,
    LatencyVerdict,
    Lineage,
    Manifest,
    TensorEntry,
    Verdict,
)
from edgevision.bundle.reader import Bundle, open_bundle
from edgevision.bundle.writer import BundleWriter, write_zip

__all__ = [
    "SCHEMA_VERSION",
    "AccuracyVerdict",
    "ArtifactEntry",
    "Bundle",
    "BundleWriter",
    "Golden",
    "LatencyVerdict",
    "Lineage",
    "Manifest",
    "TensorEntry",
    "Verdict",
    "add_engine",
    "open_bundle",
    "write_zip",
]
