"""Devices to compress for, one YAML file each."""

from __future__ import annotations

from edgevision.targets.loader import load_target, target_names
from edgevision.targets.schema import JetPack, Target

__all__ = ["JetPack", "Target", "load_target", "target_names"]
