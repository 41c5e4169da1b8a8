"""Where artifacts are opened and measured: this machine, or one at the end of a connection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from edgevision import devices
from edgevision.backends import get_backend
from edgevision.backends.base import Arrays, Artifact, Runner
from edgevision.benchmark.graphs import opened_artifacts
from edgevision.benchmark.sampling import BenchConfig, Samples, sample
from edgevision.types import Availability, DeviceInfo

if TYPE_CHECKING:
    from edgevision.benchmark.sampling import Progress


class Machine(Protocol):
    """A machine that runs artifacts. As text: how to speak of it."""

    @property
    def facts(self) -> DeviceInfo:
        """What it is."""

    def can_run(self, backend: str) -> Availability:
        """Whether artifacts of ``backend`` run on it."""

    def open(self, artifact: Artifact, *, threads: int | None = None) -> Runner:
        """An artifact of this machine's disk, opened on that one.

        Raises:
            UnavailableError: it cannot run there.
            InputError: the file is missing or damaged.
        """

    def sample(
        self,
        graphs: Mapping[str, Artifact],
        feeds: Arrays,
        *,
        threads: int | None = None,
        config: BenchConfig | None = None,
        progress: Progress | None = None,
    ) -> tuple[Samples, dict[str, Any]]:
        """Durations of ``graphs`` on ``feeds``, interleaved, and the environment of that machine.

        Raises:
            UnavailableError: one of them cannot run there, or the machine is in use.
        """


class ThisMachine:
    """The machine of this process."""

    def __str__(self) -> str:
        return "this machine"

    @property
    def facts(self) -> DeviceInfo:
        """As ``this_machine``."""
        return devices.this_machine()

    def can_run(self, backend: str) -> Availability:
        """Whether artifacts of ``backend`` run here."""
        return get_backend(backend).can_run()

    def open(self, artifact: Artifact, *, threads: int | None = None) -> Runner:
        """As ``Backend.open``."""
        return get_backend(artifact.backend).open(artifact, threads=threads)

    def sample(
        self,
        graphs: Mapping[str, Artifact],
        feeds: Arrays,
        *,
        threads: int | None = None,
        config: BenchConfig | None = None,
        progress: Progress | None = None,
    ) -> tuple[Samples, dict[str, Any]]:
        """As ``sample`` on the opened ``graphs``."""
        with opened_artifacts(graphs, feeds, threads) as runs:
            before = devices.environment()
            samples = sample(runs, config or BenchConfig(), progress=progress)
            return samples, {**before, "load_after": devices.environment()["load"]}
