"""What the agent can be asked for. Arguments and results are JSON values."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevision.agent.lock import machine_lock
from edgevision.agent.store import Store
from edgevision.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgevision.backends.base import Artifact, Backend, Runner

    Progress = Callable[[str, int, int], None]

_OPEN: dict[int, Runner] = {}


def missing(store: Store, progress: Progress, names: list[str]) -> dict[str, Any]:
    """Those of the files that have to be sent, and the bytes that are free for them."""
    del progress
    gone = store.missing(names)
    free = shutil.disk_usage(str(store.root)).free + sum(map(store.sent, gone))
    return {"names": gone, "free": free}


def accept(store: Store, progress: Progress, name: str) -> None:
    """Check and keep a file that was sent."""
    del progress
    store.accept(name)


def survey(store: Store, progress: Progress) -> dict[str, Any]:
    """The machine, what it can build and run, and which modules it lacks."""
    del progress
    found: dict[str, Any] = {"modules": {name: _version(name) for name in ("numpy", "PIL")}}
    found["root"] = str(store.root)
    if found["modules"]["numpy"] is None:
        return found
    from edgevision.backends import BACKENDS
    from edgevision.backends._trt_common import allows_host_code
    from edgevision.devices import environment, this_machine
    from edgevision.devices.setup import jetson_setup

    jetson = jetson_setup()
    found["jetson"] = asdict(jetson) if jetson is not None else None

    found["machine"] = asdict(this_machine())
    found["allows_host_code"] = allows_host_code()
    found["environment"] = environment()
    found["backends"] = {
        name: _backend(BACKENDS.get(name)()) for name in BACKENDS.names() if name != "pytorch"
    }
    return found


def _backend(backend: Backend) -> dict[str, Any]:
    from edgevision.backends._trt_common import TensorRTFamily

    builds = backend.is_available()
    typed = isinstance(backend, TensorRTFamily) and builds.ok and backend.takes_types_from_graph()
    return {
        "builds": asdict(builds),
        "runs": asdict(backend.can_run()),
        "takes_types_from_graph": typed,
    }


def measure(
    store: Store,
    progress: Progress,
    runs: dict[str, dict[str, Any]],
    threads: int | None,
    config: dict[str, Any],
    power: bool,
) -> dict[str, Any]:
    """Durations of ``graphs``, interleaved, and their power, as ``Taken`` has them."""
    from edgevision.agent.arrays import read_arrays
    from edgevision.benchmark.sampling import BenchConfig
    from edgevision.machine import ThisMachine

    with machine_lock("bench"):
        taken = ThisMachine().measure(
            {
                name: (_artifact(store, graph), read_arrays(_inside(store, graph["feeds"])))
                for name, graph in runs.items()
            },
            threads=threads,
            config=BenchConfig(**config),
            power=power,
            progress=lambda phase, share: progress(phase, round(100 * share), 100),
        )
    told = asdict(taken)
    told["samples"]["ns"] = {name: ns.tolist() for name, ns in taken.samples.ns.items()}
    return told


def open_graph(
    store: Store, progress: Progress, graph: dict[str, Any], threads: int | None
) -> dict[str, Any]:
    """Open an artifact for ``infer``: its number and specs."""
    del progress
    from edgevision.machine import ThisMachine

    runner = ThisMachine().open(_artifact(store, graph), threads=threads)
    number = max(_OPEN, default=0) + 1
    _OPEN[number] = runner
    return {
        "number": number,
        "inputs": [asdict(spec) for spec in runner.input_specs],
        "outputs": [asdict(spec) for spec in runner.output_specs],
    }


def infer(store: Store, progress: Progress, number: int, inputs: str) -> dict[str, Any]:
    """Run once on the arrays in the work folder's ``inputs``; where the outputs are."""
    del progress
    from edgevision.agent.arrays import read_arrays, write_arrays

    outputs = _OPEN[number].infer(read_arrays(_inside(store, inputs)))
    path = store.work / "outputs.npz"
    write_arrays(path, outputs)
    return store.offer(path)


def close_graph(store: Store, progress: Progress, number: int) -> None:
    """Close what ``open_graph`` opened."""
    del store, progress
    _OPEN.pop(number).close()


def build(store: Store, progress: Progress, **arguments: Any) -> dict[str, Any]:
    """An engine; see ``agent.build``."""
    from edgevision.agent import build as builds

    return builds.build(store, progress, **arguments)


def fetched(store: Store, progress: Progress, key: str) -> None:
    """An engine has arrived: it need not be kept here."""
    del progress
    store.forget_build(key)


TASKS: dict[str, Callable[..., Any]] = {
    "missing": missing,
    "accept": accept,
    "survey": survey,
    "measure": measure,
    "open": open_graph,
    "infer": infer,
    "close": close_graph,
    "build": build,
    "fetched": fetched,
}


def _artifact(store: Store, graph: dict[str, Any]) -> Artifact:
    from edgevision.backends.base import Artifact

    return Artifact(graph["backend"], store.existing(graph["file"]), graph["meta"])


def _inside(store: Store, name: str) -> Path:
    """The file ``name`` of the work folder."""
    if not isinstance(name, str) or name != Path(name).name:
        raise InputError(f"A file of the work folder has a plain name, got {name!r}.")
    return store.work / name


def _version(module: str) -> str | None:
    from importlib import import_module

    try:
        return str(import_module(module).__version__)
    except ImportError:
        return None
