"""A new engine for a machine on which none of a bundle's engines runs: ``--rebuild``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgevision.backends.base import ShapeRange
from edgevision.bundle import Bundle, open_bundle
from edgevision.errors import InputError, LostConnectionError, UnavailableError
from edgevision.machine import Machine
from edgevision.pipeline.engine import EngineResult, build_engine, graph_for
from edgevision.pipeline.survey import runs_graphs, status_there, target_status
from edgevision.runtime import load
from edgevision.targets import Target, load_target, target_names


@dataclass(frozen=True)
class Rebuilt:
    """The engine that was built, or None and why there is none."""

    engine: EngineResult | None
    reason: str = ""


def rebuild_engine(
    path: str | Path,
    *,
    machine: Machine | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Rebuilt:
    """Build an engine into a bundle where the runtime would run no engine of it.

    Args:
        path: folder or zip.
        machine: to build on and for, None for this one.
        progress: called with (phase, done, total).

    Raises:
        BundleError: the bundle is damaged in more than its engines.
        ModelError: the builder refuses the graph.
        LostConnectionError: the machine is no longer reached.
    """
    with open_bundle(path, strict=False) as bundle:
        verdict = bundle.manifest.verdict
        if verdict is not None and not verdict.passed:
            return Rebuilt(None, "the bundle's verdict failed, so its baseline runs")
        running = _running_engine(bundle, machine)
        if running is not None:
            return Rebuilt(None, f"{running} runs there")
        target = target_for(bundle, machine)
        size = bundle.manifest.inputs[0].shape[0]
    if isinstance(target, str):
        return Rebuilt(None, target)
    batch = ShapeRange(size, size, size) if isinstance(size, int) else None
    return Rebuilt(build_engine(path, target.name, batch=batch, machine=machine, progress=progress))


def target_for(bundle: Bundle, machine: Machine | None = None) -> Target | str:
    """The target that ``machine`` is and whose engines it builds, or why there is none.

    Those that the bundle was made for come first, then the machine's own.
    """
    manifest = bundle.manifest
    engines = [entry.target for entry in manifest.runnable() if entry.kind == "engine"]
    known = {name: load_target(name) for name in target_names()}
    # A board's own target knows its memory; that of any GPU comes last.
    others = sorted(known, key=lambda name: known[name].device_model is None)
    named = [name for name in (*engines, manifest.target) if name in known]
    reasons = []
    for name in dict.fromkeys([*named, *others]):
        if runs_graphs(known[name]):
            continue
        obstacle = _obstacle(bundle, known[name], machine)
        if obstacle is None:
            return known[name]
        if name in named:
            reasons.append(f"{name}: {obstacle}")
    return "; ".join(reasons) or "no target whose engines it builds is this machine"


def _running_engine(bundle: Bundle, machine: Machine | None) -> str | None:
    """The engine that the runtime takes, opened to be sure of it; None for another artifact."""
    try:
        with load(bundle, machine=machine) as model:
            taken = bundle.manifest.artifact(model.choice.path)
    except LostConnectionError:
        raise
    except UnavailableError:
        return None  # nothing in the bundle runs there yet
    return taken.path if taken.kind == "engine" else None


def _obstacle(bundle: Bundle, target: Target, machine: Machine | None) -> str | None:
    status = target_status(target) if machine is None else status_there(target, machine)
    for found in (status.builds, status.runs):
        if not found.ok:
            return found.reason
    if machine is not None and target.compute_capabilities:
        here = (machine.facts.compute_capability or "").replace(".", "")
        if here not in target.compute_capabilities:
            return f"its GPU is of compute capability {here or 'unknown'}"
    try:
        graph = graph_for(bundle, target)
    except InputError as error:
        return error.message
    return None if graph.role is not None else f"the accuracy of '{graph.path}' was never proven"
