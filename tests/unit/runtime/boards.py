"""Machines that tests need and do not have: their facts are given, the rest is this machine's."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from edgevision.backends import get_backend
from edgevision.backends._trt_common import TensorRTFamily
from edgevision.backends._trt_runner import TensorRTRunner
from edgevision.backends.base import Artifact, Runner
from edgevision.devices import this_machine
from edgevision.machine import ThisMachine
from edgevision.types import Availability, DeviceInfo
from tests.unit.backends.vendor import HostCuda, Script, vendor

_CUDA: Any = HostCuda()


class Board(ThisMachine):
    """A machine with a GPU and an SDK of the TensorRT family; engines are opened over stand-ins.

    What is before the vendor's deserializer is the real thing. ``deserialized`` names the files
    that got so far.
    """

    def __init__(
        self,
        *,
        sm: str | None = "8.6",
        packages: dict[str, str] | None = None,
        host_code: bool = False,
        sdks: tuple[str, ...] = ("tensorrt_rtx",),
        **facts: Any,
    ) -> None:
        self._facts = replace(this_machine(), gpu="a GPU", compute_capability=sm, **facts)
        self._packages = packages
        self._host_code = host_code
        self._sdks = sdks
        self.deserialized: list[str] = []

    @property
    def facts(self) -> DeviceInfo:
        return self._facts

    @property
    def allows_host_code(self) -> bool:
        return self._host_code

    def versions(self) -> dict[str, str]:
        return super().versions() if self._packages is None else self._packages

    def can_run(self, backend: str) -> Availability:
        if backend in ("tensorrt", "tensorrt_rtx"):
            return Availability(backend in self._sdks, "pretended")
        return super().can_run(backend)

    def can_build(self, backend: str) -> Availability:
        return self.can_run(backend)

    def open(self, artifact: Artifact, *, threads: int | None = None) -> Runner:
        backend = get_backend(artifact.backend)
        if not isinstance(backend, TensorRTFamily):
            return super().open(artifact, threads=threads)
        plan = backend._plan(artifact)
        self.deserialized.append(artifact.path.name)
        return TensorRTRunner(_doubling(backend), plan, artifact.path.name, _CUDA)


def _doubling(backend: TensorRTFamily) -> SimpleNamespace:
    """The vendor's names over an engine that doubles images of 8 x 8 pixels."""
    script = Script()
    script.shape = (-1, 3, 8, 8)
    return vendor("rtx-1.7" if backend.name == "tensorrt_rtx" else "10.3", script)
