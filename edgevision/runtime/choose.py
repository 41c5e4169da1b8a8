"""Which artifact of a bundle this machine runs, and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgevision.errors import UsageError
from edgevision.machine import ThisMachine
from edgevision.runtime.fits import engine_misfit

if TYPE_CHECKING:
    from edgevision.bundle import ArtifactEntry, Bundle, Manifest
    from edgevision.machine import Machine

_ROLES = ("baseline", "shipped")
_ENGINES_FIRST = ("shipped", "candidate", "baseline", None)
_UNPROVEN = "its accuracy was never proven in this bundle; name it to run it"
ONNXRUNTIME = "onnxruntime"  # in every install, and runs any ONNX file
# Which target this machine's processor is, by the backend that runs an ONNX file.
_CPU_TARGETS = {"openvino": "cpu-openvino"}
_CPU = "cpu"


@dataclass(frozen=True)
class Choice:
    """The artifact that was opened.

    Attributes:
        path, backend, precision, scheme: of the artifact.
        reason: why this one.
        passed_over: those before it that cannot or should not run here, each with its reason.
    """

    path: str
    backend: str
    precision: str | None
    scheme: str | None
    reason: str
    passed_over: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.path} on {self.backend}: {self.reason}"]
        return "\n".join([*lines, *(f"passed over {line}" for line in self.passed_over)])


def asked_for(manifest: Manifest, artifact: str) -> ArtifactEntry:
    """The runnable artifact with that path, or the first one with that role.

    Raises:
        BundleError: there is no such path.
        UsageError: no artifact has the role, or the file cannot be run.
    """
    if artifact in _ROLES:
        found = [entry for entry in manifest.runnable() if entry.role == artifact]
        # By role the ONNX file is meant, which runs anywhere; an engine is for one machine.
        found.sort(key=lambda entry: entry.kind != "onnx")
        if not found:
            raise UsageError(f"The bundle has no artifact with the role '{artifact}'.")
        return found[0]
    entry = manifest.artifact(artifact)
    if entry.kind not in ("onnx", "engine"):
        names = ", ".join(entry.path for entry in manifest.runnable())
        raise UsageError(
            f"'{artifact}' cannot be run. Runnable: {names}, or {' or '.join(_ROLES)}."
        )
    return entry


def backend_for(entry: ArtifactEntry, machine: Machine | None = None) -> tuple[str, str | None]:
    """The backend that runs ``entry``, and why it is not the one that was measured.

    An ONNX file whose backend is not there runs on ONNX Runtime. ``machine``: None for this one.
    """
    name = entry.backend or ONNXRUNTIME
    if entry.kind == "engine":
        return name, None
    obstacle = _backend_obstacle(name, machine or ThisMachine())
    return (name, None) if obstacle is None else (ONNXRUNTIME, obstacle)


def by_default(
    bundle: Bundle, machine: Machine | None = None
) -> Iterator[tuple[ArtifactEntry, str, str | None]]:
    """As ``ranked``, for a caller who named none: what is not proven to be good is passed over.

    That is an engine without a role, and all but the baseline where the verdict failed.
    """
    verdict = bundle.manifest.verdict
    failed = None
    if verdict is not None and not verdict.passed:
        failed = ": ".join(["the bundle's verdict failed", *verdict.reasons[:1]])
    for entry, reason, obstacle in ranked(bundle, machine):
        if obstacle is None and entry.role is None:
            obstacle = _UNPROVEN
        if failed is None:
            yield entry, reason, obstacle
        elif entry.role == "baseline":
            yield entry, f"{reason}; {failed}", obstacle
        else:
            yield entry, reason, obstacle or f"{failed}; name it to run it"


def ranked(
    bundle: Bundle, machine: Machine | None = None
) -> Iterator[tuple[ArtifactEntry, str, str | None]]:
    """Runnable artifacts, best first: (entry, reason for it, why it cannot run there or None).

    Engines of this machine come first, the shipped one before others, then the shipped ONNX file,
    then a candidate of the machine's quantization scheme, then the FP32 baseline, which runs
    anywhere. An INT8 file is for the backend that it was measured on, no other.
    ``machine``: None for this one.
    """
    machine = machine or ThisMachine()
    entries = bundle.manifest.runnable()
    engines = [entry for entry in entries if entry.kind == "engine"]
    for entry in sorted(engines, key=lambda entry: _ENGINES_FIRST.index(entry.role)):
        yield entry, "an engine built for this machine", engine_obstacle(bundle, entry, machine)
    onnx = [entry for entry in entries if entry.kind == "onnx"]
    for entry in onnx:
        if entry.role == "shipped":
            reason = _onnx_reason(entry, "the network that the verdict speaks of")
            yield entry, reason, _onnx_obstacle(entry, machine)
    for entry in onnx:
        if entry.role == "candidate" and entry.scheme is not None:
            reason = _onnx_reason(entry, "made for other machines too")
            yield entry, reason, _onnx_obstacle(entry, machine)
    for entry in onnx:
        if entry.role == "baseline":
            obstacle = _backend_obstacle(backend_for(entry, machine)[0], machine)
            yield entry, "the FP32 baseline, which runs anywhere", obstacle


def _onnx_reason(entry: ArtifactEntry, reason: str) -> str:
    return reason if entry.scheme is None else f"{reason}, of this CPU's scheme {entry.scheme}"


def _onnx_obstacle(entry: ArtifactEntry, machine: Machine) -> str | None:
    """Why an ONNX file is not for that CPU, or for what is installed."""
    name, missing = backend_for(entry, machine)
    if entry.scheme is None:
        return _backend_obstacle(name, machine)
    from edgevision.targets import load_target

    if missing is not None:
        return missing
    facts = machine.facts
    scheme = load_target(_CPU_TARGETS.get(name, _CPU), machine=facts).scheme
    if scheme == entry.scheme:
        return None
    return (
        f"its quantization scheme is {entry.scheme}, and that of this CPU "
        f"({facts.name or 'unknown'}) is {scheme or 'none: it has no INT8 dot product'}"
    )


def engine_obstacle(bundle: Bundle, entry: ArtifactEntry, machine: Machine) -> str | None:
    """Why an engine cannot run there, as far as that can be known before it is opened."""
    missing = _backend_obstacle(entry.backend, machine)
    if missing is not None or entry.backend is None:
        return bundle.damaged.get(entry.path, missing)
    obstacle = (
        bundle.damaged.get(entry.path)
        or _other_board(entry, machine.facts.name)
        or engine_misfit(entry.meta, entry.backend, machine)
    )
    return None if obstacle is None else or_rebuild(bundle, entry, obstacle, machine)


def _other_board(entry: ArtifactEntry, name: str) -> str | None:
    """Boards of one GPU differ in memory and cores: an engine is for the one it was built on."""
    from edgevision.targets import load_target, target_names

    if entry.target not in target_names():
        return None
    target = load_target(entry.target)
    return None if target.is_of(name) else f"built for {target.device_model}; here {name}"


def or_rebuild(bundle: Bundle, entry: ArtifactEntry, obstacle: str, machine: Machine) -> str:
    """``obstacle`` of an engine with the way out of it, where there is one."""
    if entry.backend is None or not machine.can_build(entry.backend).ok:
        return obstacle
    graphs = [other for other in bundle.manifest.runnable() if other.kind == "onnx"]
    if entry.scheme is not None and entry.scheme not in {graph.scheme for graph in graphs}:
        return obstacle
    return f"{obstacle.rstrip('.')}; --rebuild may build one"


def _backend_obstacle(name: str | None, machine: Machine) -> str | None:
    """Why nothing can be run there with the backend called ``name``."""
    from edgevision.backends import BACKENDS, get_backend

    if name is None or name not in BACKENDS:
        return f"its backend '{name}' is unknown to this version"
    available = machine.can_run(name)
    if available.ok:
        return None
    install = get_backend(name).install
    return f"{available.reason} ({install})" if install else available.reason
