"""Where artifacts are opened and measured: this machine, or one at the end of a connection.

The runtime is imported with it, so what only measuring and building take is imported there.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgevision import devices
from edgevision.backends import get_backend
from edgevision.types import Availability, DeviceInfo

if TYPE_CHECKING:
    from edgevision.backends.base import Arrays, Artifact, BuildOptions, Runner
    from edgevision.benchmark.monitor import Watched
    from edgevision.benchmark.power import PowerComparison
    from edgevision.benchmark.sampling import BenchConfig, Progress, Samples

WATCH_SECONDS = 0.5  # between readings beside a measurement of latency, of which power is none


@dataclass(frozen=True)
class Taken:
    """What ``Machine.measure`` took.

    Attributes:
        samples: durations.
        environment: the machine and its versions, JSON values.
        watched: clocks and heat meanwhile, None where nothing is readable.
        power: None where it is not readable or was not asked for.
    """

    samples: Samples
    environment: dict[str, Any]
    watched: Watched | None = None
    power: PowerComparison | None = None


class Machine(Protocol):
    """A machine that runs artifacts. As text: how to speak of it."""

    @property
    def facts(self) -> DeviceInfo:
        """What it is."""

    def can_run(self, backend: str) -> Availability:
        """Whether artifacts of ``backend`` run on it."""

    def can_build(self, backend: str) -> Availability:
        """Whether ``backend`` builds on it."""

    def takes_types_from_graph(self, backend: str) -> bool:
        """Whether that is a TensorRT that wants a float16 graph, not a flag, for float16."""

    @property
    def allows_host_code(self) -> bool:
        """Whether engines that carry code for the CPU may be opened there."""

    def versions(self) -> dict[str, str]:
        """Of the packages there that decide a result."""

    def build(self, backend: str, source: Path, output: Path, options: BuildOptions) -> Artifact:
        """Build ``source`` of this machine's disk there, to ``output`` here.

        Raises:
            As ``Backend.build``.
        """

    def open(self, artifact: Artifact, *, threads: int | None = None) -> Runner:
        """An artifact of this machine's disk, opened on that one.

        Raises:
            UnavailableError: it cannot run there.
            InputError: the file is missing or damaged.
        """

    def measure(
        self,
        runs: Mapping[str, tuple[Artifact, Arrays]],
        *,
        threads: int | None = None,
        config: BenchConfig | None = None,
        power: bool = False,
        progress: Progress | None = None,
    ) -> Taken:
        """Durations of artifacts on their inputs, interleaved; with ``power`` then that of each.

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

    def can_build(self, backend: str) -> Availability:
        """Whether ``backend`` builds here."""
        return get_backend(backend).is_available()

    def takes_types_from_graph(self, backend: str) -> bool:
        """Whether that is a TensorRT that wants a float16 graph, not a flag, for float16."""
        from edgevision.backends._trt_common import TensorRTFamily

        found = get_backend(backend)
        return isinstance(found, TensorRTFamily) and found.takes_types_from_graph()

    @property
    def allows_host_code(self) -> bool:
        """Whether engines that carry code for the CPU may be opened here."""
        from edgevision.backends._trt_common import allows_host_code

        return allows_host_code()

    def versions(self) -> dict[str, str]:
        """Of the packages here that decide a result."""
        return devices.package_versions()

    def build(self, backend: str, source: Path, output: Path, options: BuildOptions) -> Artifact:
        """As ``Backend.build``."""
        return get_backend(backend).build(source, output, options)

    def open(self, artifact: Artifact, *, threads: int | None = None) -> Runner:
        """As ``Backend.open``."""
        return get_backend(artifact.backend).open(artifact, threads=threads)

    def measure(
        self,
        runs: Mapping[str, tuple[Artifact, Arrays]],
        *,
        threads: int | None = None,
        config: BenchConfig | None = None,
        power: bool = False,
        progress: Progress | None = None,
    ) -> Taken:
        """As ``sample`` and ``measure_power`` on opened artifacts."""
        from edgevision.benchmark.graphs import opened_artifacts
        from edgevision.benchmark.monitor import Monitor
        from edgevision.benchmark.power import measure_power
        from edgevision.benchmark.sampling import BenchConfig, sample
        from edgevision.devices.sensors import find_sensors

        config = config or BenchConfig()
        sensors = find_sensors()
        monitor = Monitor(sensors, interval=WATCH_SECONDS, power=False) if sensors.any else None
        with opened_artifacts(runs, threads) as opened:
            before = devices.environment()
            with monitor or nullcontext():
                samples = sample(opened, config, progress=progress)
            after = {**before, "load_after": devices.environment()["load"]}
            used = None
            if power:
                used = measure_power(
                    opened,
                    sensors,
                    seconds=config.seconds,
                    images_per_call=config.images_per_call,
                    progress=progress,
                )
        return Taken(samples, after, monitor.result() if monitor is not None else None, used)
