"""Machines that tests need and do not have: their facts are given, the rest is this machine's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from edgevision.backends import get_backend
from edgevision.backends._trt_common import TensorRTFamily
from edgevision.backends.base import Arrays, Artifact, Runner
from edgevision.devices import this_machine
from edgevision.machine import ThisMachine
from edgevision.types import Availability, DeviceInfo, TensorSpec


class Channels(Runner):
    """Plays an opened engine of the tests' bundles: the mean of each colour channel."""

    def __init__(self) -> None:
        super().__init__(
            (TensorSpec("input", ("batch", 3, 8, 8)),), (TensorSpec("logits", ("batch", 3)),)
        )

    def _infer_impl(self, inputs: Arrays) -> dict[str, Any]:
        return {"logits": inputs["input"].mean(axis=(2, 3))}

    def _close_impl(self) -> None:
        pass


class Board(ThisMachine):
    """A machine with a GPU and SDKs of the TensorRT family.

    What is before the vendor's deserializer is the real thing; ``deserialized`` names the files
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
        backend._plan(artifact)
        self.deserialized.append(artifact.path.name)
        return Channels()
