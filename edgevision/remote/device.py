"""A device over SSH: what is measured and run on it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter

from edgevision.agent.arrays import read_arrays, write_arrays
from edgevision.backends.base import Arrays, Artifact, BuildOptions, Runner
from edgevision.benchmark import BenchConfig, Samples
from edgevision.benchmark.monitor import Watched
from edgevision.benchmark.power import PowerComparison
from edgevision.errors import LostConnectionError, StorageError, UnavailableError
from edgevision.files import sha256_file
from edgevision.machine import Taken
from edgevision.remote.address import Address
from edgevision.remote.connection import Connection, Progress
from edgevision.remote.transfer import download, upload_bytes, upload_part
from edgevision.types import Availability, DeviceInfo, LayerInfo, TensorSpec


@contextmanager
def connect(address: str | Address, **options: Any) -> Iterator[RemoteDevice]:
    """The device at ``address`` within the block.

    Args:
        address: ``ssh://user@host[:port][?python=INTERPRETER]``.
        options: for the SSH connection beside the user's own configuration.

    Raises:
        UsageError: ``address`` is none.
        UnavailableError: it cannot be reached or used; says the way out.
    """
    place = Address.parse(address) if isinstance(address, str) else address
    connection = Connection(place, **options)
    try:
        yield RemoteDevice(connection)
    finally:
        connection.close()


class RemoteDevice:
    """One connected device: a ``Machine``. Not for use by several threads at once."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.address = connection.address
        self.hello = connection.hello

    def __str__(self) -> str:
        return str(self.address)

    @property
    def facts(self) -> DeviceInfo:
        """What the device is."""
        told = self.survey["machine"]
        return DeviceInfo(**{**told, "cpu_features": tuple(told["cpu_features"])})

    def can_run(self, backend: str) -> Availability:
        """Whether artifacts of ``backend`` run on it."""
        return self._availability(backend, "runs")

    def can_build(self, backend: str) -> Availability:
        """Whether ``backend`` builds on it."""
        return self._availability(backend, "builds")

    def takes_types_from_graph(self, backend: str) -> bool:
        """Whether that is a TensorRT that wants a float16 graph, not a flag, for float16."""
        return bool(self.survey["backends"][backend]["takes_types_from_graph"])

    @property
    def allows_host_code(self) -> bool:
        """Whether engines that carry code for its CPU may be opened there."""
        return bool(self.survey["allows_host_code"])

    def versions(self) -> dict[str, str]:
        """Of the packages there that decide a result."""
        return dict(self.survey["environment"]["packages"])

    def build(self, backend: str, source: Path, output: Path, options: BuildOptions) -> Artifact:
        """Build ``source`` there, with timings that it keeps there; they come back too.

        They are written to ``<output>.timing.cache``. What was built and did not arrive is
        not built again.

        Raises:
            As ``Backend.build``.
        """
        (graph,) = self.send([source], options.progress)
        found = self._connection.call(
            "build",
            options.progress,
            backend=backend,
            graph=graph,
            name=output.name,
            options=options.to_json(),
        )
        self.fetch(found["engine"], output, options.progress)
        if found["timing_cache"] is not None:
            cache = output.with_name(f"{output.name}.timing.cache")
            self.fetch(found["timing_cache"], cache, options.progress)
        self._connection.call("fetched", key=found["key"])
        layers = TypeAdapter(tuple[LayerInfo, ...]).validate_python(found["layers"])
        return Artifact(backend, output, found["meta"], layers)

    @cached_property
    def survey(self) -> dict[str, Any]:
        """The machine, its backends, and which modules it lacks.

        Raises:
            UnavailableError: its Python has no numpy.
        """
        found: dict[str, Any] = self._connection.call("survey")
        if found["modules"]["numpy"] is None:
            raise UnavailableError(
                f"{self.address}: its Python {self.hello['python']} has no numpy.",
                hint="Install it there, on a Jetson with: sudo apt install python3-numpy",
            )
        return found

    def measure(
        self,
        runs: Mapping[str, tuple[Artifact, Arrays]],
        *,
        threads: int | None = None,
        config: BenchConfig | None = None,
        power: bool = False,
        progress: Callable[[str, float], None] | None = None,
    ) -> Taken:
        """As ``Machine.measure``.

        Raises:
            UnavailableError: the device is in use, lost, or cannot run one of them.
        """

        def told(phase: str, done: int, total: int) -> None:
            if progress is not None:
                progress(phase, done / max(1, total))

        graphs = self.send([artifact.path for artifact, _ in runs.values()], told)
        # Runs with the same inputs hold the same arrays: they are sent once.
        arrays: dict[int, str] = {}
        for _, feeds in runs.values():
            if id(feeds) not in arrays:
                arrays[id(feeds)] = self._send_arrays(feeds, f"feeds-{len(arrays)}.npz")
        asked = {
            name: {**_told(artifact, graph), "feeds": arrays[id(feeds)]}
            for (name, (artifact, feeds)), graph in zip(runs.items(), graphs, strict=True)
        }
        found = self._connection.call(
            "measure",
            told,
            runs=asked,
            threads=threads,
            config=asdict(config or BenchConfig()),
            power=power,
        )
        samples = found["samples"]
        ns = {name: np.asarray(values, np.int64) for name, values in samples.pop("ns").items()}
        return Taken(
            Samples(ns=ns, **samples),
            found["environment"],
            TypeAdapter(Watched | None).validate_python(found["watched"]),
            TypeAdapter(PowerComparison | None).validate_python(found["power"]),
        )

    def open(self, artifact: Artifact, *, threads: int | None = None) -> Runner:
        """Open ``artifact`` there; every call moves its arrays over the connection."""
        graph = _told(artifact, *self.send([artifact.path]))
        opened = self._connection.call("open", graph=graph, threads=threads)
        return _RemoteRunner(self, opened)

    def send(self, paths: Sequence[Path], progress: Progress | None = None) -> list[str]:
        """Files, sent if they are not there; their names there.

        Raises:
            StorageError: there is no room for them.
        """
        names = [f"{sha256_file(path)}{path.suffix}" for path in paths]
        by_name = dict(zip(names, paths, strict=True))
        found = self._connection.call("missing", names=list(by_name))
        wanted = {name: by_name[name] for name in found["names"]}
        size = sum(path.stat().st_size for path in wanted.values())
        if size > found["free"]:
            raise StorageError(
                f"{self.address}: {', '.join(path.name for path in wanted.values())} would take "
                f"{_mb(size)}, {_mb(found['free'])} are free in {self._connection.root}.",
                hint="Make room there.",
            )
        for name, path in wanted.items():
            told = partial(progress, f"sending {path.name}") if progress else _silent
            place = f"{self._connection.root}/files/{name}"
            self._connection.run(upload_part(self._connection.sftp, path, place, told))
            self._connection.call("accept", name=name)
        return names

    def fetch(self, offered: dict[str, Any], target: Path, progress: Progress | None) -> None:
        """What the agent made, to ``target``."""
        told = partial(progress, f"fetching {target.name}") if progress else _silent
        place = f"{self._connection.root}/{offered['path']}"
        self._connection.run(
            download(self._connection.sftp, place, offered["sha256"], offered["size"], target, told)
        )

    def _availability(self, backend: str, which: str) -> Availability:
        found = self.survey["backends"].get(backend)
        if found is None:
            return Availability(False, f"no backend '{backend}' for devices")
        return Availability(**found[which])

    def _send_arrays(self, arrays: Arrays, name: str) -> str:
        """Write ``arrays`` into the agent's work folder, which goes with it."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            write_arrays(path, arrays)
            place = f"{self._connection.root}/{self.hello['work']}/{name}"
            data = path.read_bytes()
            self._connection.run(upload_bytes(self._connection.sftp, data, place))
        return name


class _RemoteRunner(Runner):
    """An artifact that is open on a device. Outputs belong to the caller."""

    def __init__(self, device: RemoteDevice, opened: dict[str, Any]) -> None:
        super().__init__(_specs(opened["inputs"]), _specs(opened["outputs"]))
        self._device, self._number = device, opened["number"]

    def _infer_impl(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        name = self._device._send_arrays(inputs, f"inputs-{self._number}.npz")
        # The next inference there, of whichever runner, writes to the same file.
        with self._device._connection.alone, tempfile.TemporaryDirectory() as folder:
            offered = self._device._connection.call("infer", number=self._number, inputs=name)
            path = Path(folder) / "outputs.npz"
            self._device.fetch(offered, path, None)
            return read_arrays(path)

    def _close_impl(self) -> None:
        if self._device._connection.is_broken:
            return  # it went with the agent
        with suppress(LostConnectionError):
            self._device._connection.call("close", number=self._number)


def _told(artifact: Artifact, file: str) -> dict[str, Any]:
    return {"backend": artifact.backend, "file": file, "meta": artifact.meta}


def _specs(told: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(spec["name"], tuple(spec["shape"]), spec["dtype"]) for spec in told)


def _mb(size: int) -> str:
    return f"{size / 2**20:.0f} MB"


def _silent(done: int, total: int) -> None:
    pass
