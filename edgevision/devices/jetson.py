"""What a Jetson is and how it is set up, from its own files. Standard library only.

Nothing is started, but for ``nvpmodel -q`` where the power mode was never set. Whatever is missing,
unreadable or garbage is None, never an error.

Sources: device tree bindings of the Linux kernel (part numbers), NVIDIA's Jetson Linux Developer
Guide and JetPack archive (L4T releases, ``nvpmodel``).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from pkgutil import get_data
from typing import Any

from edgevision.devices import sysfs

JETPACKS = Path(__file__).parent / "jetpacks.json"
_MODULES = ("AGX Orin", "Orin NX", "Orin Nano", "AGX Xavier", "Xavier NX", "Thor")
# Board number of the module, and where modules share it the SKU too. 2972 is how the kernel calls
# the AGX Xavier developer kit.
_PARTS = {
    "2888": "AGX Xavier",
    "2972": "AGX Xavier",
    "3668": "Xavier NX",
    "3701": "AGX Orin",
    "3767-0000": "Orin NX",
    "3767-0001": "Orin NX",
    "3767-0002": "Orin NX",
    "3767-0003": "Orin Nano",
    "3767-0004": "Orin Nano",
    "3767-0005": "Orin Nano",
    "3834": "Thor",
}
_PART = re.compile(r"p([0-9]{4})-([0-9]{4})")
_MODE = re.compile(r"<\s*POWER_MODEL\b([^<>]*)>")
_MAXN, _TOP = (1 << 20, 0), (1 << 21, 0)  # above all watts
_RELEASE = "etc/nv_tegra_release"
_PACKAGES = "var/lib/dpkg/status"
_PACKAGES_LIMIT = 64 << 20  # a file of a few megabytes


@dataclass(frozen=True)
class PowerMode:
    """A mode of ``nvpmodel``; ``name`` is None where its configuration does not list it."""

    id: int
    name: str | None

    def __str__(self) -> str:
        return f"mode {self.id}" if self.name is None else f"{self.name} (mode {self.id})"


@dataclass(frozen=True)
class Jetson:
    """A Jetson as its files tell.

    Attributes:
        name: e.g. "NVIDIA Jetson Orin NX 16GB".
        module: e.g. "Orin NX"; None for one that EdgeVision does not know.
        part_number: of the module, e.g. "p3767-0000".
        soc: e.g. "tegra234".
        memory_mb: that Linux manages, some less than the module has.
        l4t: release, e.g. "36.4.3".
        jetpacks: the JetPack of that release, e.g. ("6.2",); several where the release is known too
            roughly to tell; none where it is unknown.
        power_mode: the one in force.
        power_modes: all there are.
    """

    name: str
    module: str | None = None
    part_number: str | None = None
    soc: str | None = None
    memory_mb: int | None = None
    l4t: str | None = None
    jetpacks: tuple[str, ...] = ()
    power_mode: PowerMode | None = None
    power_modes: tuple[PowerMode, ...] = ()

    @property
    def jetpack(self) -> str | None:
        """The JetPack, None where it is unknown or ambiguous."""
        return self.jetpacks[0] if len(self.jetpacks) == 1 else None

    @property
    def release(self) -> str:
        """L4T and JetPack in words."""
        if self.l4t is None:
            return "L4T unknown"
        if not self.jetpacks:
            return f"L4T {self.l4t}, of no known JetPack"
        return f"L4T {self.l4t}, JetPack {' or '.join(self.jetpacks)}"


def read_jetson(root: Path = sysfs.ROOT) -> Jetson | None:
    """The Jetson whose files are below ``root``; None where they are of no Jetson."""
    tree = root / "proc/device-tree"
    model = sysfs.word(tree / "model") or ""
    compatible = sysfs.words(tree / "compatible")
    if not (model or compatible or sysfs.text(root / _RELEASE)):
        return None
    l4t = l4t_release(root)
    module, part = _module(compatible, model, sysfs.word(tree / "nvidia,dtsfilename") or "")
    if module is None and "jetson" not in model.lower() and l4t is None:
        return None
    memory = _memory_mb(root)
    name = model or "NVIDIA Jetson"
    if module is not None:
        name = " ".join(["NVIDIA Jetson", module, *_size(memory)])
    modes = _power_modes(root)
    return Jetson(
        name=name,
        module=module,
        part_number=part,
        soc=_soc(compatible),
        memory_mb=memory,
        l4t=l4t,
        jetpacks=() if l4t is None else jetpacks_of(l4t),
        power_mode=_power_mode(root, modes),
        power_modes=modes,
    )


def l4t_release(root: Path = sysfs.ROOT) -> str | None:
    """L4T release, e.g. "36.4.3", from its own file or else from the package it came in."""
    first = sysfs.text(root / _RELEASE, 4096)
    found = re.search(r"R([0-9]{1,3}) \(release\), REVISION: ([0-9]{1,3}(\.[0-9]{1,3})*)", first)
    if found:
        return f"{found[1]}.{found[2]}"
    listed = sysfs.text(root / _PACKAGES, _PACKAGES_LIMIT)
    package = re.search(r"^Package: nvidia-l4t-core$(?:\n.+)*?\nVersion: ([0-9.]+)", listed, re.M)
    return package[1][:16] if package else None


@lru_cache(maxsize=1)
def jetpack_table() -> dict[str, dict[str, Any]]:
    """JetPack → what it brings.

    ``l4t`` are its L4T releases: major and minor number, and the first revision where an older
    JetPack has lower ones of the same; ``opset`` is the highest that the ONNX parser of its
    TensorRT takes, at most 18.
    """
    data = get_data(__name__, JETPACKS.name)  # works in a zip too
    assert data is not None
    table: dict[str, dict[str, Any]] = json.loads(data)
    return table


def jetpacks_of(l4t: str) -> tuple[str, ...]:
    """JetPacks that an L4T release may belong to.

    "36.4.3" is of 6.2 and "36.4.0" of 6.1; "36.4" may be either; an unknown release is of none.
    """
    parts = [int(part) for part in re.findall("[0-9]{1,9}", l4t)]
    minor, revision = parts[:2], parts[2:3]
    starts = {}
    for version, facts in jetpack_table().items():
        for release in facts["l4t"]:
            start = [int(part) for part in release.split(".")]
            if start[:2] == minor:
                starts[version] = start[2] if len(start) > 2 else 0
    if not revision:
        return tuple(starts)
    reached = {version: first for version, first in starts.items() if first <= revision[0]}
    return (max(reached, key=reached.__getitem__),) if reached else ()


def highest(modes: tuple[PowerMode, ...]) -> PowerMode | None:
    """The mode that allows most, by its name; numbers say nothing (7W may be 3 and 15W be 0).

    MAXN before all watts, MAXN_SUPER before it; of equal watts the one with more cores. None where
    no name tells.
    """
    ranked = [(rank, mode) for mode in modes for rank in [_rank(mode)] if rank is not None]
    return max(ranked, key=lambda pair: pair[0])[1] if ranked else None


def advice(jetson: Jetson, clocks_locked: bool | None) -> tuple[str, ...]:
    """What makes figures lower or less steady than they could be, with the command that ends it."""
    found = []
    best, mode = highest(jetson.power_modes), jetson.power_mode
    if best is not None and mode is not None and (_rank(mode) or _TOP) < (_rank(best) or _TOP):
        found.append(
            f"The power mode is {mode}; the highest is {best.name}. To change it: "
            f"sudo nvpmodel -m {best.id}"
        )
    if clocks_locked is False:
        found.append("Clocks follow the load. To lock them for measuring: sudo jetson_clocks")
    return tuple(found)


def _module(compatible: list[str], model: str, dts: str) -> tuple[str | None, str | None]:
    """Module and part number.

    ``compatible`` is what firmware read from the module itself. ``model`` is text of whoever made
    the system image and may name another module. The device tree file serves several modules, so
    its name comes last, and only its board number counts.
    """
    boards = [found.groups() for entry in compatible for found in _PART.finditer(entry)]
    for board, sku in boards:
        module = _PARTS.get(f"{board}-{sku}") or _PARTS.get(board)
        if module is not None:
            return module, f"p{board}-{sku}"
    told = set(re.split(r"[^a-z0-9]+", model.lower()))
    named = [module for module in _MODULES if told >= set(module.lower().split())]
    if len(named) == 1:
        return named[0], None
    by_file = (_PARTS.get(found[1]) for found in _PART.finditer(dts))
    return next((module for module in by_file if module is not None), None), None


def _soc(compatible: list[str]) -> str | None:
    found = [re.fullmatch(r"nvidia,(tegra[0-9a-z]+)", entry) for entry in compatible]
    return next((match[1] for match in found if match), None)


def _memory_mb(root: Path) -> int | None:
    found = re.search(r"^MemTotal:\s+([0-9]{1,15}) kB", sysfs.text(root / "proc/meminfo"), re.M)
    return int(found[1]) // 1024 if found else None


def _size(memory_mb: int | None) -> list[str]:
    """What the module is sold with: the power of two above, as firmware keeps some for itself."""
    if memory_mb is None:
        return []
    sizes = [size for size in (4, 8, 16, 32, 64, 128) if memory_mb <= 1024 * size]
    return [f"{size}GB" for size in sizes[:1]]


def _power_modes(root: Path) -> tuple[PowerMode, ...]:
    modes = {}
    for line in sysfs.text(root / "etc/nvpmodel.conf").splitlines():
        found = _MODE.search(line.partition("#")[0])
        if found is None:
            continue
        number = re.search(r"\bID=([0-9]{1,4})\b", found[1])
        name = re.search(r"\bNAME=([A-Za-z0-9_.+-]{1,64})(?=\s|$)", found[1])
        if number and name:
            modes[int(number[1])] = PowerMode(int(number[1]), name[1])
    return tuple(modes[number] for number in sorted(modes))


def _power_mode(root: Path, modes: tuple[PowerMode, ...]) -> PowerMode | None:
    found = re.search(r"pmode:([0-9]{1,4})\b", sysfs.text(root / "var/lib/nvpmodel/status", 4096))
    if found:
        number = int(found[1])
    else:
        told = _asked(root)
        if told is None:
            return None
        number = told
    return next((mode for mode in modes if mode.id == number), PowerMode(number, None))


def _asked(root: Path) -> int | None:
    """The mode that ``nvpmodel`` tells; only the machine itself can be asked."""
    program = shutil.which("nvpmodel") if root == sysfs.ROOT else None
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "-q"], capture_output=True, timeout=5, check=False, env={"PATH": os.defpath}
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(rb"NV Power Mode: \S+\s+([0-9]{1,4})\b", done.stdout)
    return int(found[1]) if found else None


def _rank(mode: PowerMode) -> tuple[int, int] | None:
    """Watts and cores as the name tells; None where it does not."""
    name = (mode.name or "").upper()
    if "MAXN" in name:
        return _TOP if "SUPER" in name else _MAXN
    watts, cores = re.search("([0-9]{1,4})W", name), re.search("([0-9]{1,3})CORE", name)
    if watts is None:
        return None
    return int(watts[1]), int(cores[1]) if cores else 1000 * name.endswith("_ALL")
