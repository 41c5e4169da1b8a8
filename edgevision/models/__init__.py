"""Networks: our own small families, timm, torchvision, files with a factory, and checkpoints.

A family of ours is one file and one line of ``FAMILIES``.
"""

from __future__ import annotations

from edgevision.models.create import create
from edgevision.models.factory import trust_factory
from edgevision.models.families import FAMILIES, Family

__all__ = ["FAMILIES", "Family", "create", "trust_factory"]
