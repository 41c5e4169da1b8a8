"""Networks from a user's file: ``path/file.py:factory``, and whose word lets such a file run.

A reference that the user writes is trusted for the process. One that a checkpoint's card names is
not: a downloaded card could name any file of this machine.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from edgevision.errors import ModelError
from edgevision.files import sha256_file

TRUST_VARIABLE = "EDGEVISION_TRUST_FACTORY"
_trusted: dict[tuple[Path, str], str] = {}  # (file, function) to the sha256 of the file


def is_factory(reference: str) -> bool:
    """Whether ``reference`` is of the form ``path/file.py:factory``, with or without the name."""
    return ".py:" in reference or reference.endswith(".py")


def trust_factory(reference: str) -> None:
    """Let checkpoints of this factory, with the file as it is now, be loaded by this process.

    For references that the user wrote; any other form of reference is left alone, and a file that
    is not there too.
    """
    place, name = _parts(reference)
    path = Path(place)
    if is_factory(reference) and path.is_file():
        _trusted[path.resolve(), name] = sha256_file(path)


def factory_sha256(reference: str) -> str | None:
    """sha256 hex of the file that built ``reference`` in this process, else of the file now.

    None where it is no factory or the file is gone.
    """
    place, name = _parts(reference)
    path = Path(place)
    if not is_factory(reference):
        return None
    return _trusted.get((path.resolve(), name)) or (sha256_file(path) if path.is_file() else None)


def check_trust(reference: str, folder: Path, expected: object, *, trust_code: bool) -> None:
    """Refuse the factory that the card of the checkpoint ``folder`` names, unless it may run.

    It may where the user named this very function and file in this process, or has opted in and
    the file is, outside ``folder``, the one that the checkpoint was made with. Only the named file
    is compared, not what it imports.

    Args:
        expected: sha256 hex that the card holds, None where it holds none.

    Raises:
        ModelError: says what would be run and how to opt in.
    """
    place, name = _parts(reference)
    path = Path(place)
    if not path.is_file():
        raise ModelError(
            f"{folder} needs '{reference}' to build its network, and there is no file '{place}'.",
            hint="Run the command where that path leads to the file it was trained with.",
        )
    found = sha256_file(path)
    if expected not in (None, found):
        raise ModelError(
            f"{folder} was made with another '{place}': sha256 {expected}, it is now {found}.",
            hint="Put the file back as it was, or train again.",
        )
    if _trusted.get((path.resolve(), name)) == found:
        return
    would = f"To load {folder} would run the Python code of '{reference}' ({path.resolve()})"
    if expected is None:
        raise ModelError(
            f"{would}; refused: its card has no sha256 of that file.",
            hint="Train it again, naming the file as MODEL.",
        )
    if path.resolve().is_relative_to(folder.resolve()):
        raise ModelError(
            f"{would}; refused: the file came with the checkpoint.",
            hint="A network's code must lie outside its checkpoint: train with it there.",
        )
    if not (trust_code or os.environ.get(TRUST_VARIABLE) == "1"):
        raise ModelError(
            f"{would}; refused: this file is run only where you say so.",
            hint=f"Read the file; if you trust it, set {TRUST_VARIABLE}=1, or pass "
            "trust_code=True to load_checkpoint.",
        )


def _parts(reference: str) -> tuple[str, str]:
    """File and function; the latter is empty where ``reference`` names none."""
    place, _, name = reference.rpartition(":") if ".py:" in reference else (reference, "", "")
    return place, name


def from_factory(reference: str, **arguments: Any) -> nn.Module:
    """Run the file's code and call its factory; it is trusted from then on.

    The factory gets those of ``arguments`` (num_classes, in_channels, image_size) that its
    signature names, or all of them where it takes ``**kwargs``.

    Raises:
        ModelError: no such file or factory, either fails, or the result is no network.
    """
    place, name = _parts(reference)
    if not name:
        raise ModelError(
            f"'{reference}' does not say which function builds the network.",
            hint=f"Write {reference.rstrip(':')}:NAME with the name of the function or class.",
        )
    path = Path(place)
    if not path.is_file():
        raise ModelError(f"There is no file '{place}' (from '{reference}').")
    trust_factory(reference)
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
