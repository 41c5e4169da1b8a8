"""Networks from a user's file: ``path/file.py:factory``."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from edgevision.errors import ModelError


def from_factory(reference: str, **arguments: Any) -> nn.Module:
    """Run the file's code and call its factory.

    The factory gets those of ``arguments`` (num_classes, in_channels, image_size) that its
    signature names, or all of them where it takes ``**kwargs``.

    Raises:
        ModelError: no such file or factory, either fails, or the result is no network.
    """
    place, _, name = reference.rpartition(":") if ".py:" in reference else (reference, "", "")
    if not name:
        raise ModelError(
            f"'{reference}' does not say which function builds the network.",
            hint=f"Write {reference.rstrip(':')}:NAME with the name of the function or class.",
        )
    path = Path(place)
    if not path.is_file():
        raise ModelError(f"There is no file '{place}' (from '{reference}').")
    code = _load(path)
    factory = getattr(code, name, None)
    if factory is None:
        found = sorted(n for n, v in vars(code).items() if callable(v) and not n.startswith("_"))
        raise ModelError(f"'{place}' has no '{name}'. It has: {', '.join(found) or 'no function'}.")
    if not callable(factory):
        raise ModelError(f"'{name}' in '{place}' is {type(factory).__name__}, not a function.")
    try:
        module = factory(**_accepted(factory, arguments))
    except Exception as error:
        raise ModelError(f"'{reference}' failed: {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise ModelError(f"'{reference}' gave {type(module).__name__}, not a torch.nn.Module.")
    return module


def _load(path: Path) -> ModuleType:
    # A name of its own: two files called model.py must not replace each other.
    name = f"edgevision_user_{path.stem}_{sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ModelError(f"'{path}' cannot be read as a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling of classes look the module up here
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ModelError(f"'{path}' failed: {type(error).__name__}: {error}") from error
    return module


def _accepted(factory: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return {}
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return arguments
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return {key: value for key, value in arguments.items() if key in named}
