"""From a target's name, or a YAML file of the user's, to the target."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from edgevision.devices.jetson import JETPACKS, jetpack_table
from edgevision.devices.local import this_machine
from edgevision.errors import RecipeError, UsageError, unknown_name
from edgevision.targets.schema import JetPack, SchemeChoice, Target, TargetFile
from edgevision.types import DeviceInfo

DATA = Path(__file__).parent / "data"
_MAX_BYTES = 64 * 1024

M = TypeVar("M", bound=BaseModel)


def target_names() -> list[str]:
    """Names of the targets that come with the package, sorted."""
    return sorted(path.stem for path in DATA.glob("*.yaml"))


def load_target(name: str, *, machine: DeviceInfo | None = None) -> Target:
    """The target called ``name``.

    Args:
        name: a name of ``target_names()``, with ``@JETPACK`` on a Jetson (``jetson-orin-nano@6.2``,
            without it the target's default), or the path of a YAML file with the same fields.
        machine: decides the scheme where it depends on the processor; default: this one.

    Raises:
        UsageError: no such target or no such JetPack; says the nearest.
        RecipeError: the file has an unknown field or a bad value; says which.
    """
    path = _as_path(name)
    if path is not None:
        return _resolve(path.stem, path, None, machine)
    stem, at, jetpack = name.partition("@")
    if stem not in target_names():
        raise UsageError(unknown_name("target", stem, target_names()))
    return _resolve(stem, DATA / f"{stem}.yaml", jetpack if at else None, machine)


def _as_path(name: str) -> Path | None:
    if not name.endswith((".yaml", ".yml")) and os.sep not in name:
        return None
    path = Path(name)
    if not path.is_file():
        raise UsageError(f"No target file at {path}.")
    return path


def _resolve(name: str, path: Path, wanted: str | None, machine: DeviceInfo | None) -> Target:
    file = _validated(TargetFile, _mapping(path), path)
    jetpacks = _jetpacks(file, path)
    jetpack = _choose(name, jetpacks, wanted, file.default_jetpack)
    scheme, reason = _scheme(file.scheme, machine)
    facts: dict[str, Any] = file.model_dump(exclude={"scheme", "jetpacks", "default_jetpack"})
    if jetpack is not None:
        facts["opset"] = min(file.opset, jetpack.opset)
    return Target(
        **facts,
        name=name,
        scheme=scheme,
        scheme_reason=reason,
        jetpacks=jetpacks,
        jetpack=jetpack,
    )


def _mapping(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _MAX_BYTES:
        raise RecipeError(f"{path} is larger than {_MAX_BYTES // 1024} KB: not a target file.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path} must hold fields and values, got {type(content).__name__}.")
    return content


def _validated(model: type[M], content: dict[str, Any], path: Path) -> M:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0]) if first["loc"] else ""
        if first["type"] == "extra_forbidden":
            raise RecipeError(
                f"{path.name}: {unknown_name('field', field, model.model_fields)}"
            ) from error
        where = ".".join(map(str, first["loc"]))
        raise RecipeError(f"{path.name}: {where + ': ' if where else ''}{first['msg']}.") from error


def _jetpacks(file: TargetFile, path: Path) -> tuple[JetPack, ...]:
    known = jetpack_table() if file.jetpacks else {}
    for version in file.jetpacks:
        if version not in known:
            raise RecipeError(f"{path.name}: {unknown_name('JetPack', version, known)}")
    return tuple(
        _validated(JetPack, {"version": version, **known[version]}, JETPACKS)
        for version in file.jetpacks
    )


def _choose(
    name: str, jetpacks: tuple[JetPack, ...], wanted: str | None, default: str | None
) -> JetPack | None:
    if wanted is None:
        wanted = default
    elif not jetpacks:
        raise UsageError(f"Target '{name}' has no JetPack to choose, got '@{wanted}'.")
    if wanted is None:
        return None
    versions = {jetpack.version: jetpack for jetpack in jetpacks}
    if wanted not in versions:
        raise UsageError(unknown_name(f"JetPack of {name}", wanted, versions))
    return versions[wanted]


def _scheme(
    scheme: str | tuple[SchemeChoice, ...], machine: DeviceInfo | None
) -> tuple[str | None, str]:
    if isinstance(scheme, str):
        return scheme, "set by the target"
    machine = machine or this_machine()
    for choice in scheme:
        found = [name for name in choice.any_feature if name in machine.cpu_features]
        if found:
            return choice.name, f"{machine.name} has {found[0]}"
    wanted = ", ".join(name for choice in scheme for name in choice.any_feature)
    return None, f"{machine.name} has none of {wanted}: INT8 would be no faster, so it stays float"
