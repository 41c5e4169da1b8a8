"""What this machine can build and run, and what is missing for the rest, in a base install too."""

from __future__ import annotations

import platform
import re
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from edgevision.backends import BACKENDS, get_backend
from edgevision.devices import environment, this_machine
from edgevision.devices.setup import JetsonSetup, jetson_setup
from edgevision.devices.sysfs import ROOT
from edgevision.errors import EdgeVisionError
from edgevision.machine import Machine
from edgevision.targets import Target, load_target, target_names
from edgevision.types import Availability, DeviceInfo

_REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+)")
_EXTRA = re.compile(r"""extra\s*==\s*['"]([A-Za-z0-9._-]+)['"]""")
_THERE = "Copy the bundle or the ONNX file to the device and build there."
_OLDEST_PYTHON = (3, 10)


@dataclass(frozen=True)
class TargetStatus:
    """Whether engines for a target can be built and run on this machine.

    ``hint`` is the way to one that cannot be built here.
    """

    target: Target
    builds: Availability
    runs: Availability
    hint: str | None = None

    @property
    def obstacles(self) -> str:
        """Why not, in one line; empty where the target builds and runs here."""
        found = [one.reason for one in (self.builds, self.runs) if not one.ok]
        if self.target.scheme is None:
            found.append(self.target.scheme_reason)
        return "; ".join(dict.fromkeys(found))


@dataclass(frozen=True)
class BackendStatus:
    """Whether a backend builds and runs here; ``install`` says how to get it where it does not."""

    name: str
    builds: Availability
    runs: Availability
    install: str | None


@dataclass(frozen=True)
class ExtraStatus:
    """Versions of an extra's packages, None for one that is missing."""

    name: str
    packages: dict[str, str | None]

    @property
    def is_complete(self) -> bool:
        """Whether every package is here."""
        return all(self.packages.values())

    @property
    def install(self) -> str:
        """The command that installs it."""
        return f"pip install 'edgevision[{self.name}]'"


@dataclass(frozen=True)
class JetsonStatus:
    """The Jetson that this machine is.

    Attributes:
        target: reference of the target that it is, None where there is none.
        lines: what it is, and how it is set up.
        advice: what makes it slower or less steady than it could be, each with its command.
    """

    target: str | None
    lines: tuple[str, ...]
    advice: tuple[str, ...]


@dataclass(frozen=True)
class Survey:
    """Everything that ``edgevision doctor`` shows; ``jetson`` is None elsewhere."""

    environment: dict[str, Any]
    jetson: JetsonStatus | None
    extras: tuple[ExtraStatus, ...]
    backends: tuple[BackendStatus, ...]
    targets: tuple[TargetStatus, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "environment": self.environment,
            "jetson": None if self.jetson is None else asdict(self.jetson),
            "extras": {
                extra.name: {
                    "complete": extra.is_complete,
                    "packages": extra.packages,
                    "install": None if extra.is_complete else extra.install,
                }
                for extra in self.extras
            },
            "backends": {
                status.name: {
                    "builds": asdict(status.builds),
                    "runs": asdict(status.runs),
                    "install": status.install,
                }
                for status in self.backends
            },
            "targets": {
                status.target.reference: {
                    "backend": status.target.backend,
                    "scheme": status.target.scheme,
                    "scheme_reason": status.target.scheme_reason,
                    "builds": asdict(status.builds),
                    "runs": asdict(status.runs),
                }
                for status in self.targets
            },
        }


def survey() -> Survey:
    """Look at this machine: packages, backends and every target that ships."""
    return Survey(
        environment=environment(),
        jetson=jetson_status(),
        extras=tuple(extras()),
        backends=tuple(backend_status(name) for name in BACKENDS),
        targets=tuple(target_status(load_target(name)) for name in target_names()),
    )


def jetson_status(root: Path = ROOT) -> JetsonStatus | None:
    """The Jetson whose files are below ``root``, None where they are of no Jetson."""
    setup = jetson_setup(root)
    return None if setup is None else status_of(setup)


def status_of(setup: JetsonSetup) -> JetsonStatus:
    """What to say of a Jetson, here or at the end of a connection."""
    target = _target_of(setup)
    part = "" if setup.part_number is None else f" ({setup.part_number})"
    is_target = "no target of EdgeVision" if target is None else f"target {target}"
    return JetsonStatus(
        target=target,
        lines=(
            f"{setup.name}{part}, {setup.release}: {is_target}",
            "; ".join(setup.setting),
        ),
        advice=setup.advice,
    )


def _target_of(jetson: JetsonSetup) -> str | None:
    for name in target_names():
        target = load_target(name)
        if target.device_model is not None and target.is_of(jetson.name):
            known = {jetpack.version for jetpack in target.jetpacks}
            return f"{name}@{jetson.jetpack}" if jetson.jetpack in known else name
    return None


def backend_status(name: str) -> BackendStatus:
    """Whether the backend ``name`` builds and runs here."""
    backend = get_backend(name)
    builds, runs = backend.is_available(), backend.can_run()
    return BackendStatus(name, builds, runs, None if builds.ok else backend.install)


def target_status(target: Target, machine: DeviceInfo | None = None) -> TargetStatus:
    """Whether engines for ``target`` can be built and run on ``machine`` (default: this one)."""
    machine = machine or this_machine()
    try:
        backend = get_backend(target.backend)
    except EdgeVisionError as error:
        unknown = Availability(False, error.message)
        return TargetStatus(target, unknown, unknown)
    elsewhere = _elsewhere(target, machine)
    if elsewhere is not None:
        return TargetStatus(target, elsewhere, elsewhere, _THERE)
    runs = backend.can_run()
    if runs.ok and target.compute_capabilities:
        here = (machine.compute_capability or "").replace(".", "")
        if here not in target.compute_capabilities:
            served = ", ".join(target.compute_capabilities)
            runs = Availability(False, f"this GPU is of compute capability {here}, not {served}")
    builds = backend.is_available()
    return TargetStatus(target, builds, runs, None if builds.ok else backend.install)


def runs_graphs(target: Target) -> bool:
    """Whether ``target`` runs ONNX graphs as they are, so that they are its artifacts."""
    return target.backend in BACKENDS and get_backend(target.backend).artifact_suffix == ".onnx"


def graph_backend(target: Target) -> str:
    """The backend to run a graph for ``target`` with: its own where that does and is here."""
    here = runs_graphs(target) and get_backend(target.backend).can_run().ok
    return target.backend if here else "onnxruntime"


def status_there(target: Target, machine: Machine) -> TargetStatus:
    """The same of a machine at the end of a connection."""
    name = machine.facts.name
    if not target.is_of(name):
        other = Availability(False, f"it is no {target.device_model} but {name}")
        return TargetStatus(target, other, other)
    return TargetStatus(target, machine.can_build(target.backend), machine.can_run(target.backend))


@dataclass(frozen=True)
class TimingStatus:
    """Whether graphs can be timed as a target runs them; ``hint`` says how, or is empty."""

    ok: bool
    reason: str
    hint: str = ""


def timing_status(target: Target, machine: DeviceInfo | None = None) -> TimingStatus:
    """Whether ``machine`` (default: this one) can time, layer by layer, what ``target`` runs."""
    status = target_status(target, machine)
    if target.backend in BACKENDS and not get_backend(target.backend).times_layers:
        # On the device itself too: another machine, or what is missing here, would not help.
        return TimingStatus(
            False, f"its backend, {target.backend}, runs no ONNX graphs as they are"
        )
    if status.runs.ok:
        return TimingStatus(True, status.runs.reason)
    if _elsewhere(target, machine or this_machine()) is not None:
        return TimingStatus(False, status.runs.reason, "Run the command on the device.")
    return TimingStatus(False, status.runs.reason, status.hint or "")


def timing_there(target: Target, machine: Machine) -> TimingStatus:
    """The same of a machine at the end of a connection."""
    if not runs_graphs(target):
        return TimingStatus(
            False, f"its backend, {target.backend}, runs no ONNX graphs as they are"
        )
    runs = machine.can_run(target.backend)
    return TimingStatus(runs.ok, f"{machine}: {runs.reason}")


def _elsewhere(target: Target, machine: DeviceInfo) -> Availability | None:
    """Why a target that is one device alone is not this machine."""
    model = target.device_model
    if target.builds != "on-device" or model is None:
        return None
    if target.jetpack is not None:
        version = tuple(int(part) for part in target.jetpack.python.split("."))
        if version < _OLDEST_PYTHON:
            return Availability(
                False,
                f"JetPack {target.jetpack.version} has Python {target.jetpack.python}, EdgeVision "
                "needs 3.10: build there with trtexec, from a kit (--kit)",
            )
    if target.is_of(machine.name):
        return None
    return Availability(False, f"its engines are built and run on the {model} itself")


def extras() -> list[ExtraStatus]:
    """The package's extras, with the version of each package of theirs, as its metadata says."""
    found: dict[str, dict[str, str | None]] = {}
    for line in metadata.requires("edgevision") or []:
        extra, name = _EXTRA.search(line), _REQUIREMENT.match(line)
        if extra is None or name is None or name[1] == "edgevision":
            continue
        if "sys_platform" in line and f"'{sys.platform}'" not in line.replace('"', "'"):
            continue
        found.setdefault(extra[1], {})[name[1]] = _version(name[1])
    return [ExtraStatus(name, packages) for name, packages in sorted(found.items())]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def headline(machine: DeviceInfo | None = None, python: str | None = None) -> str:
    """One line on Python, system and machine; None: of this one."""
    machine = machine or this_machine()
    gpu = f", {machine.gpu} (SM {machine.compute_capability})" if machine.gpu else ", no NVIDIA GPU"
    return (
        f"Python {python or platform.python_version()} on {machine.system} {machine.architecture}: "
        f"{machine.name}, {machine.cores} cores, {machine.memory_mb / 1024:.0f} GB{gpu}"
    )
