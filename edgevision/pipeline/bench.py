"""Measures a bundle through the runtime that ships: device and end-to-end latency."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgevision.benchmark.compare import Comparison, compare, related
from edgevision.benchmark.monitor import Monitor, Watched
from edgevision.benchmark.power import PowerComparison, measure_power
from edgevision.benchmark.report_schema import (
    ComparisonSection,
    ConditionsSection,
    ModelSection,
    PowerSection,
    Report,
    SizeRow,
    read_report,
)
from edgevision.benchmark.sampling import BenchConfig, Progress
from edgevision.bundle import Bundle, LatencyVerdict, Verdict, open_bundle
from edgevision.devices.sensors import Sensors, find_sensors
from edgevision.errors import BundleError, UnavailableError
from edgevision.machine import WATCH_SECONDS, Machine
from edgevision.runtime import Model, load
from edgevision.runtime.golden import golden_tensor

REPORT_NAME = "report.json"


@dataclass(frozen=True)
class Measured:
    """Both comparisons, what was seen during either, and power where it is readable.

    On another machine images are not read, so there is no end to end.

    ``watched`` is phase → what was seen, empty where there is nothing to see.
    """

    device: Comparison
    end_to_end: Comparison | None
    power: PowerComparison | None
    watched: dict[str, Watched]


def bench_bundle(
    path: str | Path,
    *,
    artifact: str | None = None,
    against: str = "baseline",
    batch: int = 1,
    threads: int | None = None,
    config: BenchConfig | None = None,
    machine: Machine | None = None,
    sensors: Sensors | None = None,
    progress: Progress | None = None,
) -> Report:
    """Measure what the runtime picks on a machine against another artifact of the bundle.

    Two interleaved measurements: device (tensor in, tensor out) and end-to-end (image file in,
    prediction out), both through ``edgevision.runtime`` on the bundle's golden images. On another
    machine only the first: images are read here. Where power is readable, one more: power of the
    device run, each side by itself.

    Args:
        path: folder or zip.
        artifact, against: path of a runnable artifact, ``"baseline"`` or ``"shipped"``;
            ``artifact`` None: the runtime's own choice.
        batch: images a call.
        threads: of the CPU for both, None for the SDK's choice.
        config: limits of each measurement; its ``images_per_call`` is set to ``batch``.
        machine: to measure on, None for this one.
        sensors: of power, clocks and heat; None: what this machine has.
        progress: called with (phase, share done).

    Returns:
        The bundle's own report, with latency, environment and verdict as measured here.

    Raises:
        BundleError: the bundle is damaged, or has no golden images.
        UnavailableError: both would be the same artifact, or one does not run here.
        InputError: an artifact does not accept that batch size.
    """
    config = _with_batch(config or BenchConfig(), batch)
    with (
        open_bundle(path, strict=False) as bundle,
        load(bundle, artifact=against, threads=threads, machine=machine) as baseline,
        load(bundle, artifact=artifact, threads=threads, machine=machine) as model,
    ):
        if model.choice.path == baseline.choice.path:
            raise UnavailableError(
                f"Nothing to compare: both are '{model.choice.path}'.",
                hint="\n".join(model.choice.passed_over) or "Name another with --artifact.",
            )
        models = {_label(baseline): baseline, _label(model): model}
        if machine is not None:
            return _report(
                bundle, _measured_on(machine, models, threads, config, progress), threads
            )
        found = find_sensors() if sensors is None else sensors
        measured = measure_models(models, bundle, config=config, sensors=found, progress=progress)
        return _report(bundle, measured, threads)


def _measured_on(
    machine: Machine,
    models: dict[str, Model],
    threads: int | None,
    config: BenchConfig,
    progress: Progress | None,
) -> Measured:
    """Device latency of ``models`` on ``machine``, the first the baseline."""
    baseline = next(iter(models))
    tensor = _golden_tensor(models[baseline].bundle, config.images_per_call)
    taken = machine.measure(
        {
            name: (model.artifact, {model.runner.input_specs[0].name: tensor})
            for name, model in models.items()
        },
        threads=threads,
        config=config,
        power=True,
        progress=progress,
    )
    found = related(taken.samples, baseline=baseline, config=config, environment=taken.environment)
    watched = {"device": taken.watched} if taken.watched is not None else {}
    return Measured(found, None, taken.power, watched)


def measure_models(
    models: dict[str, Model],
    bundle: Bundle,
    *,
    config: BenchConfig,
    sensors: Sensors,
    progress: Progress | None = None,
) -> Measured:
    """Device and end-to-end comparison of opened models on the golden images of ``bundle``.

    Args:
        models: name → opened model, the baseline first.
        bundle: with golden images, at least one.
        config: limits of each measurement; ``images_per_call`` images go into every call.
        sensors: read meanwhile; what it does not have is left out.
        progress: called with (phase, share done).
    """
    batch = config.images_per_call
    tensor = _golden_tensor(bundle, batch)
    golden = bundle.manifest.golden
    assert golden is not None
    files = [bundle.path(golden.images[i % len(golden.images)]) for i in range(batch)]
    first = next(iter(models))

    def said(title: str) -> Progress | None:
        if progress is None:
            return None
        return lambda phase, share: progress(f"{title}: {phase}", share)

    watched: dict[str, Watched] = {}

    def measured(title: str, calls: dict[str, Callable[[], object]]) -> Comparison:
        monitor = Monitor(sensors, interval=WATCH_SECONDS, power=False) if sensors.any else None
        with monitor or nullcontext():
            found = compare(calls, baseline=first, config=config, progress=said(title))
        if monitor is not None:
            watched[title] = monitor.result()
        return found

    device_runs = {name: _device_run(model, tensor) for name, model in models.items()}
    device = measured("device", device_runs)
    end_to_end = measured(
        "end to end", {name: _file_run(model, files) for name, model in models.items()}
    )
    power = measure_power(
        device_runs, sensors, seconds=config.seconds, images_per_call=batch, progress=progress
    )
    return Measured(device, end_to_end, power, watched)


def _golden_tensor(bundle: Bundle, batch: int) -> Any:
    """(batch, C, H, W) float32 of golden images."""
    golden = bundle.manifest.golden
    if golden is None:
        raise BundleError(f"{bundle.source} has no golden images to measure with.")
    rows = golden_tensor(bundle, golden)
    return np.ascontiguousarray(rows[np.arange(batch) % len(rows)])


def _device_run(model: Model, tensor: Any) -> Callable[[], object]:
    inputs = {model.runner.input_specs[0].name: tensor}
    return lambda: model.infer(inputs)


def _file_run(model: Model, files: list[Path]) -> Callable[[], object]:
    return lambda: model(files)


def _label(model: Model) -> str:
    return model.choice.path


def _with_batch(config: BenchConfig, batch: int) -> BenchConfig:
    return replace(config, images_per_call=batch)


def _report(bundle: Bundle, measured: Measured, threads: int | None) -> Report:
    stored = _stored(bundle)
    device = measured.device
    name, ratio = next(iter(device.ratios.items()))
    latency = LatencyVerdict(
        baseline=device.runs[device.baseline].latency_p50_ms,
        candidate=device.runs[name].latency_p50_ms,
        ratio=ratio.value,
        low=ratio.low,
        high=ratio.high,
    )
    return stored.model_copy(
        update={
            "verdict": _verdict(stored.verdict, latency, bundle),
            "latency": _section(device),
            "end_to_end": _section(measured.end_to_end) if measured.end_to_end else None,
            "power": _power(measured.power),
            "conditions": _conditions(measured),
            "environment": {"cpu_threads": threads or "chosen by the SDK", **device.environment},
        }
    )


def _section(comparison: Comparison) -> ComparisonSection:
    values = comparison.to_dict()
    del values["environment"]  # the report has it once
    return ComparisonSection.model_validate(values)


def _power(power: PowerComparison | None) -> PowerSection | None:
    if power is None or not power.runs:
        return None
    values = asdict(power)
    del values["watched"]  # what it says of clocks and heat is in the conditions
    return PowerSection.model_validate(values)


def _conditions(measured: Measured) -> ConditionsSection | None:
    """Clocks of the device measurement, heat and notices of all of them."""
    if not measured.watched:
        return None
    phases = list(measured.watched.items())
    if measured.power is not None:
        phases += [("power", watched) for watched in measured.power.watched]
    notices = [
        f"{phase.capitalize()}: {notice}" for phase, seen in phases for notice in seen.notices
    ]
    heat = [seen.highest_c for _, seen in phases if seen.highest_c is not None]
    clocks = {name: asdict(seen) for name, seen in measured.watched["device"].clocks.items()}
    section = ConditionsSection.model_validate(
        {
            "clocks": clocks,
            "highest_c": max(heat, default=None),
            "notices": tuple(dict.fromkeys(notices)),
        }
    )
    return section if section != ConditionsSection() else None


def _verdict(stored: Verdict, latency: LatencyVerdict, bundle: Bundle) -> Verdict:
    """The stored verdict with the latency of this machine, which can only make it worse.

    What the recipe asked for is not known here, so a verdict that was not passed stays so.
    """
    reasons = list(stored.reasons)
    slow = latency.low <= 1
    if slow:
        reasons.append(
            f"Not faster than the baseline on this machine: {latency.ratio:.2f} times "
            f"({latency.low:.2f} to {latency.high:.2f})."
        )
    if bundle.manifest.verdict is None:
        reasons.append("The bundle holds no verdict, so its accuracy is not proven.")
    code = stored.exit_code or (5 if slow else 0)
    return stored.model_copy(
        update={
            "passed": code == 0,
            "exit_code": code,
            "reasons": tuple(reasons),
            "latency": latency,
        }
    )


def _stored(bundle: Bundle) -> Report:
    """The report in the bundle, or a short one from its manifest."""
    manifest = bundle.manifest
    for entry in manifest.artifacts:
        if entry.path == REPORT_NAME:
            return read_report(bundle.path(entry).read_bytes())
    return Report(
        title=f"{manifest.lineage.model} on {manifest.target}",
        model=ModelSection(
            reference=manifest.lineage.model,
            task=manifest.task,
            input=str(manifest.inputs[0].spec()),
            classes=len(manifest.labels),
        ),
        target=manifest.target,
        verdict=manifest.verdict or Verdict(passed=True, exit_code=0),
        sizes=tuple(
            SizeRow(name=entry.path, bytes=entry.size, role=entry.role)
            for entry in manifest.runnable()
        ),
        lineage=manifest.lineage,
    )
