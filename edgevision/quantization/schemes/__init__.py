"""Quantization schemes, by name. A new one is its YAML file beside this one.

A file may start from another scheme with ``like: NAME`` and give only what differs: mappings are
merged key by key, a key with the value ``null`` is dropped, everything else is replaced.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from edgevision.errors import UsageError, unknown_name
from edgevision.quantization.schemes.model import Scheme


@cache
def scheme_names() -> tuple[str, ...]:
    """Names of all schemes, sorted."""
    folder = files(__name__)
    return tuple(sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".yaml")))


@cache
def get_scheme(name: str) -> Scheme:
    """The scheme called ``name``.

    Raises:
        UsageError: there is none; the message lists what there is.
    """
    if name not in scheme_names():
        raise UsageError(unknown_name("quantization scheme", name, scheme_names()))
    return Scheme.model_validate({"name": name, **_content(name)})


def _content(name: str) -> dict[str, Any]:
    text = files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    content: dict[str, Any] = yaml.safe_load(text)
    base = content.pop("like", None)
    return content if base is None else merged(_content(base), content)


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes``, as described above; neither is changed."""
    result = dict(base)
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            result[key] = merged(base[key], value)
        elif value is None:
            result.pop(key, None)
        else:
            result[key] = value
    return result


__all__ = ["Scheme", "get_scheme", "scheme_names"]
