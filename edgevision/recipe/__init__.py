"""Recipes: what ``compress`` is asked to do, as data."""

from __future__ import annotations

from edgevision.recipe.loader import load_recipe, merge, preset_names, validate
from edgevision.recipe.schema import (
    InputSection,
    QuantizeSection,
    Recipe,
    VerifySection,
)

__all__ = [
    "InputSection",
    "QuantizeSection",
    "Recipe",
    "VerifySection",
    "load_recipe",
    "merge",
    "preset_names",
    "validate",
]
