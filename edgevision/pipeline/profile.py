"""``profile``: where a network's time goes on a target, at the widths that it could have."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevision.backends import get_backend
from edgevision.devices import environment
from edgevision.errors import UnavailableError, UsageError
from edgevision.files import write_atomic, write_json
from edgevision.pipeline import timing
from edgevision.pipeline.foreign import is_onnx
from edgevision.pipeline.job import Progress, silent
from edgevision.pipeline.network_times import FLOAT, TIMES, Network, network_times
from edgevision.pipeline.profiled import network_of
from edgevision.pipeline.store import held
from edgevision.pipeline.survey import TimingStatus, timing_status, timing_there
from edgevision.targets import Target, load_target
from edgevision.tasks import get_task

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgevision.latency import WidthTimes
    from edgevision.latency.curves import GroupCurve, TimeModel
    from edgevision.latency.estimate import LatencyEstimate
    from edgevision.latency.grid import HeatMap
    from edgevision.machine import Machine

MAPS = 8
PAGE, ESTIMATE, MAP_FILE = "profile.html", "estimate.json", "maps.json"


@dataclass(frozen=True)
class ProfileResult:
    """What ``profile`` found.

    Attributes:
        folder: with the times, the heat maps and the page.
        page: the HTML file.
        target: with its JetPack, where it has one.
        precision: ``int8``, ``fp16`` or ``fp32``.
        model: predicts milliseconds from widths.
        times: what was measured; None where ``model`` is an estimate.
        errors: mean and worst relative error of networks left out; None for an estimate.
        curves: what each group saves, those that save most first.
        maps: heat maps of the heaviest kinds of layers.
        source: of an estimate's peak, with the module that it is of; None where times are measured.
        untimed: why it is an estimate, and what to do about it; None where times are measured.
    """

    folder: Path
    page: Path
    target: str
    precision: str
    model: TimeModel
    times: WidthTimes | None
    errors: tuple[float, float] | None
    curves: tuple[GroupCurve, ...]
    maps: tuple[HeatMap, ...]
    source: str | None = None
    untimed: str | None = None

    @property
    def is_estimate(self) -> bool:
        """Whether nothing was measured."""
        return self.times is None

    @property
    def whole_ms(self) -> float:
        """Milliseconds of the whole network: measured where it was."""
        return self.times.milliseconds[0] if self.times else self.model.of({})


def profile(
    model: str,
    *,
    target: str = "cpu",
    data: str | None = None,
    size: int | None = None,
    precision: str | None = None,
    seconds: float | None = None,
    threads: int | None = None,
    maps: int = MAPS,
    out: str | Path | None = None,
    fresh: bool = False,
    machine: Machine | None = None,
    progress: Progress = silent,
) -> ProfileResult:
    """Measure a network at the widths that pruning could give it, and show where its time goes.

    Where ``target`` cannot be timed here, its times are estimated from what its description says
    of it, and everything that comes out says so.

    Args:
        model: as ``compress`` takes it, but no ONNX file; weights do not matter.
        target: a name of ``edgevision targets`` or a YAML file.
        data: gives classes, input and calibration images; without it noise is fed, which takes as
            long, to 1000 classes.
        size: height and width of the input in pixels; None: the data's, or the network's own.
        precision: ``int8`` or ``fp32``, of an estimate ``fp16`` too; None: int8 where the target
            has it.
        seconds: measured over all whole networks; None: as pruning to a time does.
        threads: of the backend, None for its own choice.
        maps: kinds of layers that get a heat map, the heaviest first.
        out: folder to write; default ``runs/MODEL-TARGET-profile``.
        fresh: measure again what earlier runs kept.
        machine: to measure on, None for this one.
        progress: called with (phase, done, total, note).

    Raises:
        UsageError: an ONNX file, an unknown target, a precision that it does not run, a number out
            of range, or another process works in ``out``.
        UnavailableError: the target can be neither timed nor estimated here.
        ModelError, DataError: model or data cannot be used.
    """
    from edgevision.latency.curves import group_curves

    if is_onnx(model):
        raise UsageError(
            f"{model} is an ONNX graph: the groups that pruning narrows are found in the network "
            "itself.",
            hint="Give the network as a name, path/net.py:factory or a checkpoint.",
        )
    _require_sane(size, seconds, threads, maps)
    chosen = load_target(target, machine=machine.facts if machine is not None else None)
    timed = timing_status(chosen) if machine is None else timing_there(chosen, machine)
    measured = timed.ok
    wanted = _precision(chosen, precision, measured)
    if not measured:
        _require_estimate(chosen, wanted, timed)
    module, shape, classes, images = network_of(model, data, size)
    task = get_task("classification")
    network = Network(
        module=module,
        input_shape=shape,
        output_names=task.output_names,
        target=chosen,
        scheme=chosen.scheme if wanted == "int8" else None,
        config=_config(),
        ignored=tuple(task.head_layers(module, classes)),
        threads=threads,
        machine=machine,
    )
    folder = Path(out) if out is not None else _default_folder(model, chosen)
    with held(folder):
        work = folder / ".work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        try:
            if measured:
                found = _measure(
                    network,
                    images,
                    work,
                    seconds=seconds,
                    maps=maps,
                    fresh=fresh,
                    progress=progress,
                )
            else:
                found = _estimate(network, wanted, work, maps=maps, progress=progress)
            result = ProfileResult(
                folder=folder,
                page=folder / PAGE,
                target=chosen.reference,
                precision=wanted,
                model=found.model,
                times=found.times,
                errors=found.errors,
                curves=group_curves(found.model, found.allowed),
                maps=found.maps,
                source=found.source,
                untimed=None if measured else f"{timed.reason}. {timed.hint}".rstrip(),
            )
            _write(model, result, chosen, work)
            # All are written before one of an earlier run goes: renaming needs no room.
            for name in (TIMES, ESTIMATE, MAP_FILE, PAGE):
                if (work / name).exists():
                    (work / name).replace(folder / name)
                else:
                    (folder / name).unlink(missing_ok=True)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return result


@dataclass(frozen=True)
class _Found:
    """What measuring and estimating both give; attributes as of :class:`ProfileResult`."""

    model: TimeModel
    allowed: Mapping[str, tuple[int, ...]]
    maps: tuple[HeatMap, ...]
    times: WidthTimes | None = None
    errors: tuple[float, float] | None = None
    source: str | None = None


def _measure(
    network: Network,
    images: npt.NDArray[np.float32],
    work: Path,
    *,
    seconds: float | None,
    maps: int,
    fresh: bool,
    progress: Progress,
) -> _Found:
    from edgevision.latency import KeptCells, place_of
    from edgevision.latency.cells import measure_map, shape_of
    from edgevision.latency.grid import grids_of

    model, times = network_times(
        network,
        images,
        work,
        networks=timing.NETWORKS,
        seconds=seconds or timing.SECONDS,
        fresh=fresh,
        progress=progress,
    )
    backend = get_backend(network.target.backend)
    kept = KeptCells(
        place_of(backend, network.threads, network.machine), network.scheme or network.precision
    )
    grids = grids_of(
        model.shapes, model.by_layer(), lambda layer: shape_of(layer) is not None, maps
    )
    found = []
    for number, grid in enumerate(grids):

        def told(share: float, number: int = number, kind: str = grid.layer.kind) -> None:
            done = round(100 * (number + share))
            progress("timing single layers", done, 100 * len(grids), kind)

        found.append(
            measure_map(
                grid,
                backend,
                work,
                kept,
                scheme=network.scheme,
                threads=network.threads,
                fresh=fresh,
                machine=network.machine,
                progress=told,
            )
        )
    shown = tuple(one for one in found if one is not None)
    allowed = dict(zip(times.groups, times.allowed, strict=True))
    return _Found(model, allowed, shown, times, (model.error, model.worst))


def _estimate(
    network: Network, precision: str, work: Path, *, maps: int, progress: Progress
) -> _Found:
    from edgevision.latency.estimate import estimate_latency, require_peak
    from edgevision.latency.grid import grids_of

    peak = require_peak(network.target, precision)
    progress("exporting", 0, 1, "")
    network.export(work / FLOAT)
    progress("exporting", 1, 1, "")
    shapes, allowed = network.shapes(work / FLOAT)
    model = estimate_latency(shapes, network.target, precision)
    grids = grids_of(shapes, model.by_layer(), lambda layer: True, maps)
    return _Found(model, allowed, tuple(model.heat_map(grid) for grid in grids), source=peak.source)


def _estimate_values(
    model: LatencyEstimate, target: Target, precision: str, curves: tuple[GroupCurve, ...]
) -> dict[str, Any]:
    return {
        "estimate": True,
        "target": target.reference,
        "precision": precision,
        "milliseconds": model.of({}),
        "tile": model.tile,
        "peak": target.peak.model_dump(mode="json") if target.peak else None,
        "groups": {curve.name: curve.to_dict() for curve in curves},
        "layers": model.by_layer(),
    }


def _precision(target: Target, asked: str | None, measured: bool) -> str:
    if asked is None:
        return "int8" if target.scheme is not None else "fp32"
    known = ("int8", "fp32") if measured else ("int8", "fp16", "fp32")
    if asked not in known:
        raise UsageError(
            f"precision must be one of {', '.join(known)} for '{target.reference}', got '{asked}'."
        )
    if asked == "int8" and target.scheme is None:
        raise UsageError(
            f"'{target.reference}' has no INT8 scheme here: {target.scheme_reason}.",
            hint="Use fp32.",
        )
    return asked


def _require_sane(size: int | None, seconds: float | None, threads: int | None, maps: int) -> None:
    from edgevision.benchmark import BenchConfig

    for name, value, least in (("size", size, 1), ("threads", threads, 1), ("maps", maps, 0)):
        if value is not None and value < least:
            raise UsageError(f"{name} must be at least {least}, got {value}.")
    if seconds is not None:
        BenchConfig(seconds=seconds)  # refuses what cannot be measured for


def _require_estimate(target: Target, precision: str, timed: TimingStatus) -> None:
    """Refuse a target that can be neither timed nor estimated, with the ways to either."""
    from edgevision.latency.estimate import require_peak

    try:
        require_peak(target, precision)
    except UnavailableError as error:
        raise UnavailableError(
            f"'{target.reference}' cannot be timed here: {timed.reason}. {error.message}",
            hint=f"{error.hint} {timed.hint}".rstrip(),
        ) from None


def _config() -> Any:
    """Which groups may be narrowed: those that pruning to a time would narrow by itself."""
    from edgevision.pruning import PruneConfig

    return PruneConfig(speedup=2.0)


def _default_folder(model: str, target: Target) -> Path:
    name = f"{Path(model).name or 'model'}-{target.reference}-profile"
    return Path("runs") / re.sub(r"[^A-Za-z0-9_.-]+", "_", name)


def _write(model: str, result: ProfileResult, target: Target, work: Path) -> None:
    """Write maps, page and, of an estimate, its values into ``work``."""
    from edgevision.latency.estimate import LatencyEstimate
    from edgevision.latency.page import ProfilePage, render

    shown: dict[str, Any] = {"maps": [one.to_dict() for one in result.maps]}
    if isinstance(result.model, LatencyEstimate):
        values = _estimate_values(result.model, target, result.precision, result.curves)
        write_json(work / ESTIMATE, values)
        shown["estimate"] = True
    write_json(work / MAP_FILE, shown)
    text = render(
        ProfilePage(
            model=model,
            target=result.target,
            precision=result.precision,
            whole_ms=result.whole_ms,
            tile=result.model.tile,
            curves=result.curves,
            by_layer=result.model.by_layer(),
            maps=result.maps,
            times=result.times,
            predicted=_predicted(result),
            source=result.source,
            facts=_facts(result, target),
        )
    )
    write_atomic(work / PAGE, text.encode())


def _predicted(result: ProfileResult) -> list[float]:
    from edgevision.latency import LatencyModel

    if not isinstance(result.model, LatencyModel):
        return []
    return [float(value) for value in result.model.left_out]


def _facts(result: ProfileResult, target: Target) -> Mapping[str, Any]:
    if result.times is None:
        peak = target.peak
        return {
            "target": target.title,
            "peak": peak.model_dump(mode="json") if peak else {},
            "tile": f"{target.round_to}, the target's channel multiple",
        }
    times = result.times
    return {
        "session": {
            "device": times.device,
            "backend": times.backend,
            "threads": times.threads or "the backend's own choice",
            "seconds": times.seconds,
            "networks": len(times.kept),
            "measured": times.measured,
            "load_when_it_began": times.load,
        },
        "this_run": environment(),
    }
