"""Kits: engines for a board that nobody reaches, built and measured there by its own tools."""

from __future__ import annotations

from edgevision.kit.importing import Imported, import_kit
from edgevision.kit.writing import write_kit

__all__ = ["Imported", "import_kit", "write_kit"]
