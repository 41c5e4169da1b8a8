"""Engines built on the device, and kept there until they have been fetched."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from edgevision.agent.lock import machine_lock
from edgevision.agent.store import Store
from edgevision.backends import get_backend
from edgevision.backends._trt_cache import timing_cache_name
from edgevision.backends.base import BuildOptions
from edgevision.backends.tensorrt import TensorRTBackend
from edgevision.devices import package_versions
from edgevision.files import digest, write_json

if TYPE_CHECKING:
    from collections.abc import Callable

    Progress = Callable[[str, int, int], None]


def build(
    store: Store,
    progress: Progress,
    backend: str,
    graph: str,
    name: str,
    options: dict[str, Any],
) -> dict[str, Any]:
    """Build ``graph``, or find what an earlier request like this built and nobody fetched.

    Args:
        name: of the engine's file.
        options: as ``BuildOptions.to_json`` gives them.

    Returns:
        ``engine`` and, where the builder has one, ``timing_cache``, as ``Store.offer`` tells them;
        ``meta`` and ``layers`` of the artifact; ``key`` for ``fetched``.
    """
    chosen = get_backend(backend)
    cache = None
    if isinstance(chosen, TensorRTBackend):
        cache = store.root / "timing" / timing_cache_name(chosen.version())
    asked = [backend, graph, name, options]
    key = digest([asked, package_versions(), platform.release(), str(cache)])
    record = store.root / "builds" / f"{key}.json"
    engine = store.root / "builds" / key / name
    if not (record.is_file() and engine.is_file()):
        given = replace(BuildOptions.from_json(options), timing_cache=cache, progress=progress)
        with machine_lock("build-engine"):
            artifact = chosen.build(store.existing(graph), engine, given)
        layers = [asdict(layer) for layer in artifact.layers]
        write_json(record, {"meta": artifact.meta, "layers": layers})
    found: dict[str, Any] = json.loads(record.read_bytes())
    kept = store.offer(cache) if cache is not None and cache.is_file() else None
    return {**found, "key": key, "engine": store.offer(engine), "timing_cache": kept}
