"""Measures a bundle through the runtime that ships: device and end-to-end latency."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgevision.benchmark.compare import Comparison, compare, related
from edgevision.benchmark.machine import Machine
from edgevision.benchmark.report_schema import (
    ComparisonSection,
    ModelSection,
    Report,
    SizeRow,
    read_report,
)
from edgevision.benchmark.sampling import BenchConfig, Progress
from edgevision.bundle import Bundle, LatencyVerdict, Verdict, open_bundle
from edgevision.errors import BundleError, UnavailableError
from edgevision.runtime import Model, load

REPORT_NAME = "report.json"


def bench_bundle(
    path: str | Path,
    *,
    artifact: str | None = None,
    against: str = "baseline",
    batch: int = 1,
    threads: int | None = None,
    config: BenchConfig | None = None,
    machine: Machine | None = None,
    progress: Progress | None = None,
) -> Report:
    """Measure what the runtime picks on a machine against another artifact of the bundle.

    Two interleaved measurements: device (tensor in, tensor out) and end-to-end (image file in,
    prediction out), both through ``edgevision.runtime`` on the bundle's golden images. On another
    machine only the first: images are read here.

    Args:
        path: folder or zip.
        artifact, against: path of a runnable artifact, ``"baseline"`` or ``"shipped"``;
            ``artifact`` None: the runtime's own choice.
        batch: images a call.
        threads: of the CPU for both, None for the SDK's choice.
        config: limits of each of the two measurements; its ``images_per_call`` is set to ``batch``.
        machine: to measure on, None for this one.
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
        open_bundle(path) as bundle,
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
            device = _measured_on(machine, models, threads, config, progress)
            return _report(bundle, device, None, threads)
        device, end_to_end = measure_models(models, bundle, config=config, progress=progress)
        return _report(bundle, device, end_to_end, threads)


def _measured_on(
    machine: Machine,
    models: dict[str, Model],
    threads: int | None,
    config: BenchConfig,
    progress: Progress | None,
) -> Comparison:
    """Device latency of ``models`` on ``machine``, the first the baseline."""
    baseline = next(iter(models))
    model = models[baseline]
    samples, environment = machine.sample(
        {name: model.artifact for name, model in models.items()},
        {model.runner.input_specs[0].name: _golden_tensor(model.bundle, config.images_per_call)},
        threads=threads,
        config=config,
        progress=progress,
    )
    return related(samples, baseline=baseline, config=config, environment=environment)


def measure_models(
    models: dict[str, Model],
    bundle: Bundle,
    *,
    config: BenchConfig,
    progress: Progress | None = None,
) -> tuple[Comparison, Comparison]:
    """Device and end-to-end comparison of opened models on the golden images of ``bundle``.

    Args:
        models: name → opened model, the baseline first.
        bundle: with golden images, at least one.
        config: limits of each measurement; ``images_per_call`` images go into every call.
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

    device = compare(
        {name: _device_run(model, tensor) for name, model in models.items()},
        baseline=first,
        config=config,
        progress=said("device"),
    )
    end_to_end = compare(
        {name: _file_run(model, files) for name, model in models.items()},
        baseline=first,
        config=config,
        progress=said("end to end"),
    )
    return device, end_to_end


def _golden_tensor(bundle: Bundle, batch: int) -> Any:
    """(batch, C, H, W) float32 of golden images."""
    golden = bundle.manifest.golden
    if golden is None:
        raise BundleError(f"{bundle.source} has no golden images to measure with.")
    rows = np.load(bundle.path(golden.tensor), allow_pickle=False)
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


def _report(
    bundle: Bundle, device: Comparison, end_to_end: Comparison | None, threads: int | None
) -> Report:
    stored = _stored(bundle)
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
            "end_to_end": _section(end_to_end) if end_to_end is not None else None,
            "environment": {"cpu_threads": threads or "chosen by the SDK", **device.environment},
        }
    )


def _section(comparison: Comparison) -> ComparisonSection:
    values = comparison.to_dict()
    del values["environment"]  # the report has it once
    return ComparisonSection.model_validate(values)


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
