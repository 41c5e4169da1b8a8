"""Whether an engine fits a machine, by what its sidecar says: compared before it is opened.

What the sidecar or the machine does not say is no obstacle: the vendor's own check comes after.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgevision.machine import Machine
    from edgevision.types import DeviceInfo

    Compared = tuple[str, str, bool]  # built for, here, whether that fits

# Backend → its name for people, and the packages of which one's version is compared.
_SDKS = {
    "tensorrt": ("TensorRT", ("tensorrt", "tensorrt-cu12", "tensorrt-cu13")),
    "tensorrt_rtx": ("TensorRT-RTX", ("tensorrt-rtx",)),
}
# Where a version-compatible engine of the first major version runs on the second: these pairs
# alone, by the support matrix of TensorRT 11.4.
_LATER_MAJORS = frozenset({(8, 10), (10, 11)})
_LEVELS = {"ampere+": 80}  # level of hardware compatibility → the least SM
_VERSION = re.compile(r"\d{1,5}(\.\d{1,5}){1,3}")
_SM = re.compile(r"\d{1,3}(\.\d)?")
_PLATFORM = re.compile(r"\w{1,30} \w{1,30}")


def engine_misfit(meta: Mapping[str, Any], backend: str, machine: Machine) -> str | None:
    """Why an engine is not for ``machine``, in one line with all that differs; None if it is.

    Args:
        meta: facts of the sidecar, of which ``version``, ``version_compatible``,
            ``compute_capabilities``, ``hardware_compatibility`` and ``platform`` count.
        backend: that opens it.
        machine: that shall run it.
    """
    facts = machine.facts
    found = [
        _version(meta, backend, machine.versions()),
        _compute_capability(meta, facts),
        _platform(meta, backend, facts),
    ]
    known = [compared for compared in found if compared is not None]
    reasons = []
    if not all(fits for _, _, fits in known):
        built = _listed([built for built, _, _ in known])
        reasons.append(f"built for {built}; here {_listed([here for _, here, _ in known])}")
    if meta.get("version_compatible") is True and not machine.allows_host_code:
        reasons.append(
            "it brings code for the CPU along, which is refused without "
            "EDGEVISION_ALLOW_HOST_CODE=1"
        )
    return "; ".join(reasons) or None


def _version(meta: Mapping[str, Any], backend: str, there: Mapping[str, str]) -> Compared | None:
    """An engine is for one release; a version-compatible one for later ones too."""
    name, packages = _SDKS.get(backend, ("", ()))
    here = next((there[package] for package in packages if package in there), None)
    made_by = meta.get("version")
    old, new = _release(made_by), _release(here)
    if old is None or new is None:
        return None
    count = min(len(old), len(new))
    fits = old[:count] == new[:count]
    if meta.get("version_compatible") is True:
        is_later = new > old if old[0] == new[0] else (old[0], new[0]) in _LATER_MAJORS
        fits = fits or is_later
    return f"{name} {made_by}", f"{name} {here}", fits


def _release(version: Any) -> tuple[int, ...] | None:
    """(major, minor, patch), as far as ``version`` names them; the build does not count."""
    found = _VERSION.match(version) if isinstance(version, str) else None
    return tuple(map(int, found[0].split(".")[:3])) if found else None


def _compute_capability(meta: Mapping[str, Any], facts: DeviceInfo) -> Compared | None:
    wanted = meta.get("compute_capabilities")
    given = map(str, wanted) if isinstance(wanted, list) else ()
    names = [name.replace(".", "") for name in given if _SM.fullmatch(name)]
    if not names:
        return None
    here = (facts.compute_capability or "").replace(".", "")
    if not here:
        return None
    built, fits = f"SM {', '.join(names)}", here in names
    level = meta.get("hardware_compatibility")
    if isinstance(level, str) and level in _LEVELS:
        built = f"SM {_LEVELS[level]}+"
        fits = here.isdecimal() and int(here) >= _LEVELS[level]
    return built, f"SM {here}", fits


def _platform(meta: Mapping[str, Any], backend: str, facts: DeviceInfo) -> Compared | None:
    """TensorRT's engines are for one system and processor; TensorRT-RTX's run on others too."""
    built = meta.get("platform")
    if backend != "tensorrt" or not isinstance(built, str) or not _PLATFORM.fullmatch(built):
        return None
    return built, facts.platform, built == facts.platform


def _listed(parts: list[str]) -> str:
    return ", ".join(parts[:-1]) + " and " * (len(parts) > 1) + parts[-1]
