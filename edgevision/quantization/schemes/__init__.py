"""Quantization schemes, by name. A new one is its YAML file beside this one."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

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
    text = files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    return Scheme.model_validate({"name": name, **yaml.safe_load(text)})


__all__ = ["Scheme", "get_scheme", "scheme_names"]
