"""Reads a recipe: a YAML file or a preset's name, with overrides on top."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from edgevision.errors import RecipeError, unknown_name
from edgevision.recipe.schema import Recipe

_PRESETS = Path(__file__).parent / "presets"
_LARGEST = 1 << 20
M = TypeVar("M", bound=BaseModel)


def preset_names() -> list[str]:
    """Recipes that ship with the package."""
    return sorted(path.stem for path in _PRESETS.glob("*.yaml"))


def load_recipe(
    source: str | Path | None,
    overrides: Mapping[str, Any],
    *,
    replaced: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
) -> Recipe:
    """The recipe from ``source`` (YAML file, preset name or None) with ``overrides`` on top.

    ``overrides`` is nested like the recipe; a None in it overrides nothing. ``replaced`` names
    fields by section that the overrides take the place of as a whole, as one pruning target does
    of another.

    Raises:
        RecipeError: no such recipe, no YAML mapping, an unknown field (the nearest known one is
            named), a value out of range.
    """
    values = {} if source is None else _read(source)
    for section, fields in replaced.items():
        below = values.get(section)
        if isinstance(below, Mapping):
            values[section] = {k: v for k, v in below.items() if k not in fields}
    return validate(Recipe, merge(values, overrides), "recipe")


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the values of ``over`` put in, section by section; None overrides nothing."""
    out = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping):
            below = out.get(key)
            merged = merge(below if isinstance(below, Mapping) else {}, value)
            if merged or isinstance(below, Mapping):
                out[key] = merged
        elif value is not None:
            out[key] = value
    return out


def validate(kind: type[M], values: Mapping[str, Any], where: str) -> M:
    """``values`` as ``kind``.

    Raises:
        RecipeError: one line a fault, with the field, what was given and what is expected.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        faults = [_tell(kind, fault, where) for fault in error.errors()]
        raise RecipeError("\n".join(faults)) from None


def _tell(kind: type[BaseModel], fault: Any, where: str) -> str:
    place = [str(part) for part in fault["loc"]]
    name = ".".join([where, *place])
    if fault["type"] == "extra_forbidden":
        return f"{where}: " + unknown_name("field", place[-1], _fields(kind, place[:-1]))
    if fault["type"] == "missing":
        return f"{name} is missing."
    return f"{name}: {fault['msg']}; got {fault['input']!r}."


def _fields(kind: Any, place: list[str]) -> list[str]:
    for part in place:
        field = kind.model_fields.get(part)
        if field is None:
            continue
        options = [field.annotation, *getattr(field.annotation, "__args__", ())]
        kind = next((o for o in options if hasattr(o, "model_fields")), kind)
    return list(kind.model_fields)


def _read(source: str | Path) -> dict[str, Any]:
    path = Path(source)
    # A folder of a preset's name is no obstacle: the preset's own results may lie there.
    if str(source) in preset_names() and not path.is_file():
        path = _PRESETS / f"{source}.yaml"
    if not path.exists():
        raise RecipeError(
            f"No recipe file at {source}.",
            hint=f"Give a YAML file or a preset: {', '.join(preset_names())}.",
        )
    if not path.is_file() or path.stat().st_size > _LARGEST:
        raise RecipeError(f"{path} is not a file of at most 1 MiB, so it is not a recipe.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise RecipeError(f"{path} must hold a mapping of fields, got {type(values).__name__}.")
    return values
