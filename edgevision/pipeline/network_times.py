"""Times of one network at many widths on a target: measured here, or kept from an earlier run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevision.backends import get_backend
from edgevision.devices import environment
from edgevision.errors import ModelError
from edgevision.pipeline.stages.export import INPUT_NAME, export_module

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx
    import torch

    from edgevision.latency import LatencyModel, WidthShapes, WidthTimes
    from edgevision.latency.measure import Prepare
    from edgevision.machine import Machine
    from edgevision.pruning import PruneConfig
    from edgevision.pruning.allowed import AllowedWidths
    from edgevision.targets import Target

FLOAT, TABLE, TIMES = "float.onnx", "calibration.json", "latency.json"
Progress = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class Network:
    """A network to be timed as it would ship.

    Attributes:
        module: the float network.
        input_shape: (C, H, W) of one image.
        output_names: of the graph.
        target: what it would ship to.
        scheme: of its quantization, None for float.
        config: which groups may be narrowed, and how far.
        ignored: modules whose outputs stay whole.
        threads: of the backend, None for its own choice.
        machine: that runs it, None for this one.
    """

    module: torch.nn.Module
    input_shape: tuple[int, int, int]
    output_names: tuple[str, ...]
    target: Target
    scheme: str | None
    config: PruneConfig
    ignored: tuple[torch.nn.Module, ...]
    threads: int | None
    machine: Machine | None = None

    @property
    def precision(self) -> str:
        """``int8`` or ``fp32``."""
        return "fp32" if self.scheme is None else "int8"

    def export(self, path: Path) -> None:
        """Write the float graph."""
        export_module(
            self.module,
            path,
            input_shape=self.input_shape,
            output_names=self.output_names,
            opset=self.target.opset,
        )

    def shapes(self, path: Path) -> tuple[WidthShapes, dict[str, tuple[int, ...]]]:
        """What time is made of, and of each group the units that may stay.

        Args:
            path: of the float graph.

        Raises:
            ModelError: no group may be narrowed, or the graph cannot be.
        """
        from edgevision.export import load_onnx
        from edgevision.latency import KeptLengths, WidthShapes, narrows_in_place, structure_digest
        from edgevision.pruning.allowed import allowed_widths

        found = allowed_widths(
            self.module,
            example_shape=(1, *self.input_shape),
            config=self.config,
            ignored=self.ignored,
            round_to=self.target.round_to,
        )
        if not found.allowed:
            raise ModelError(
                "No group of the network can be narrowed, so there are no widths to time.",
                hint=f"Widths go in steps of the target's channel multiple, "
                f"{self.target.round_to}.",
            )
        model = load_onnx(path)
        image = np.zeros((1, *self.input_shape), np.float32)
        if narrows_in_place(model, found.cost, found.bounds, image):
            return WidthShapes(model, found.cost, found.bounds), dict(found.allowed)
        key = {
            "structure": structure_digest(model),
            "bounds": {name: list(span) for name, span in found.bounds.items()},
            "versions": _versions("torch", "onnxscript"),
        }
        kept = KeptLengths()
        lost = kept.find(key, found.bounds)
        narrow = partial(self._exported_anew, found)
        shapes = WidthShapes(model, found.cost, found.bounds, narrow, lost)
        if lost is None:
            kept.keep(key, shapes.lost)
        return shapes, dict(found.allowed)

    def _exported_anew(self, widths: AllowedWidths, kept: Mapping[str, int]) -> onnx.ModelProto:
        from edgevision.export import load_onnx

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / FLOAT
            replace(self, module=widths.narrowed(kept)).export(path)
            return load_onnx(path)

    def emitter(self, folder: Path) -> Prepare | None:
        """From a narrowed float file to the graph that ships; None where that is the float file.

        Args:
            folder: with the calibration table.
        """
        from edgevision.latency import quantize_narrowed
        from edgevision.quantization import CalibrationTable

        if self.scheme is None:
            return None
        table = CalibrationTable.load(folder / TABLE)
        return partial(quantize_narrowed, table, self.scheme)


def network_times(
    network: Network,
    images: npt.NDArray[np.float32],
    work: Path,
    *,
    networks: int,
    seconds: float,
    seed: int = 0,
    fresh: bool = False,
    progress: Progress,
) -> tuple[LatencyModel, WidthTimes]:
    """Measure ``network`` at many widths, or take a session that an earlier run kept.

    Writes the float graph, its calibration table and the times into ``work``.

    Args:
        images: (N, C, H, W) that it is calibrated on; the first one is what is timed.
        networks: widths that are measured.
        seconds: that are measured altogether.
        seed: of the widths and of the order.
        fresh: measure whatever was kept.
        progress: called with (phase, done, total, note).

    Raises:
        ModelError: the network cannot be exported, narrowed, quantized or run.
    """
    from edgevision.export import load_onnx
    from edgevision.latency import KeptTimes, place_of, sample_widths, structure_digest
    from edgevision.quantization import calibrate

    progress("exporting", 0, 1, "")
    network.export(work / FLOAT)
    progress("exporting", 1, 1, "")
    calibrate(work / FLOAT, [images]).save(work / TABLE)
    shapes, allowed = network.shapes(work / FLOAT)
    shipped = work / "whole.onnx"
    prepare = network.emitter(work)
    if prepare is not None:
        prepare(work / FLOAT, shipped)
    key: dict[str, Any] = {
        # As it ships: another way to quantize is another graph.
        "structure": structure_digest(load_onnx(work / FLOAT if prepare is None else shipped)),
        "input": list(network.input_shape),
        # Groups are rows' columns, so their order counts; who finds them may name them anew.
        "groups": list(shapes.groups),
        "allowed": {name: list(widths) for name, widths in allowed.items()},
        "versions": _versions(),
        **place_of(get_backend(network.target.backend), network.threads, network.machine),
    }
    shipped.unlink(missing_ok=True)
    kept = KeptTimes()
    times = (
        None if fresh else kept.find(key, groups=shapes.groups, networks=networks, seconds=seconds)
    )
    if times is None:
        rows = sample_widths(list(allowed.values()), networks, seed)
        times = _measured(
            network, shapes, allowed, rows, images, work, prepare, seconds, seed, progress
        )
        kept.keep(key, times)
    else:
        progress(f"times of {len(times.kept)} networks: kept from {times.measured}", 1, 1, "")
    return _written(times, shapes, work), times


def _versions(*more: str) -> dict[str, str]:
    """Of what decides which groups there are, and of ``more``."""
    return {name: metadata.version(name) for name in ("edgevision", "torch-pruning", *more)}


def _measured(
    network: Network,
    shapes: WidthShapes,
    allowed: dict[str, tuple[int, ...]],
    rows: npt.NDArray[np.int64],
    images: npt.NDArray[np.float32],
    work: Path,
    prepare: Prepare | None,
    seconds: float,
    seed: int,
    progress: Progress,
) -> WidthTimes:
    from edgevision.latency import WidthTimes, measure_widths, now, place_of

    backend = get_backend(network.target.backend)
    place = place_of(backend, network.threads, network.machine)
    load = environment()["load"] if network.machine is None else None
    times = measure_widths(
        shapes,
        rows,
        backend,
        {INPUT_NAME: images[:1]},
        work,
        prepare=prepare,
        threads=network.threads,
        seconds=seconds,
        seed=seed,
        machine=network.machine,
        progress=lambda phase, done, total: progress(phase, done, total, ""),
    )
    return WidthTimes(
        groups=tuple(allowed),
        allowed=tuple(allowed.values()),
        kept=rows.tolist(),
        milliseconds=tuple(times.tolist()),
        precision=network.precision,
        backend=place["backend"],
        device=place["device"]["name"],
        threads=network.threads,
        seconds=seconds,
        load=load,
        measured=now(),
    )


def _written(times: WidthTimes, shapes: WidthShapes, work: Path) -> LatencyModel:
    from edgevision.files import write_json

    model = times.fit(shapes)
    write_json(work / TIMES, times.with_errors(model))
    return model
