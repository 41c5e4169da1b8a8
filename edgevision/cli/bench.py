"""``edgevision bench``: latency of a bundle on this machine, against its FP32 baseline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgevision.cli._device import DeviceOption
from edgevision.cli._rebuild import RebuildOption, machine_with_engine
from edgevision.errors import NotFasterError, UsageError

if TYPE_CHECKING:
    from edgevision.benchmark.report_schema import ComparisonSection, PowerSection, Report

_HELP = """Measure a bundle on this machine: the artifact that runs here against FP32.

Two measurements, both interleaved in random order and through the runtime that ships: device
latency (tensor in, tensor out) and end-to-end (image file in, prediction out). Where power can be
read (Jetson, RAPL), a third: watts and energy of an image. Writes report.json and report.html. Exit
code 5 where it is not faster.

Example:

  edgevision bench bundle/ --seconds 20 --threads 2 --out bench/

  edgevision bench bundle/ --device ssh://me@jetson

  edgevision bench bundle/ --fleet devices.yaml --out bench/
"""


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("bench", help=_HELP)(_bench)


def _bench(
    bundle: Annotated[Path, typer.Argument(help="Folder or zip of a bundle.")],
    against: Annotated[
        str, typer.Option(help="fp32 (the baseline) or a path in the bundle.")
    ] = "fp32",
    artifact: Annotated[
        str | None, typer.Option(help="A path in the bundle; default: what the runtime picks.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images a call.")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of both sides.")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Time limit of each measurement.")] = 10.0,
    device: DeviceOption = None,
    rebuild: RebuildOption = False,
    fleet: Annotated[
        Path | None, typer.Option(help="YAML file of devices, to measure on all of them.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the order.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for report.json and report.html.")
    ] = None,
) -> None:
    from edgevision.benchmark import BenchConfig
    from edgevision.benchmark.report import write_report
    from edgevision.cli._progress import Phases
    from edgevision.pipeline.bench import bench_bundle

    baseline = "baseline" if against == "fp32" else against
    config = BenchConfig(seconds=seconds, seed=seed)
    if fleet is not None:
        from edgevision.cli._fleet import bench_devices

        if device is not None or threads is not None:
            raise UsageError("With --fleet, devices and threads are named in its file.")
        if rebuild:
            raise UsageError(
                "--rebuild writes into the bundle, which a fleet shares.",
                hint="Build for each first: edgevision bench BUNDLE --device … --rebuild",
            )
        bench_devices(
            bundle, fleet, out, artifact=artifact, against=baseline, batch=batch, config=config
        )
        return
    with (
        machine_with_engine(bundle, device, rebuild=rebuild, artifact=artifact) as machine,
        Phases(Console(stderr=True)) as phases,
    ):
        report = bench_bundle(
            bundle,
            artifact=artifact,
            against=baseline,
            batch=batch,
            threads=threads,
            machine=machine,
            config=config,
            progress=lambda phase, share: phases(phase, round(100 * share), 100),
        )
    console = Console()
    for title, section in (
        ("Device latency (tensor in, tensor out)", report.latency),
        ("End-to-end latency (file in, prediction out)", report.end_to_end),
    ):
        if section is not None:
            console.print(_table(title, section))
    if report.power is not None:
        power = report.power
        idle = "" if power.idle_w is None else f"; idle {power.idle_w:.2f} W, not subtracted"
        console.print(_power_table(power))
        text = f"W is the total of {', '.join(power.total_of)}{idle}."
        console.print(escape(text), highlight=False, soft_wrap=True)
    for notice in report.conditions.notices if report.conditions is not None else ():
        console.print(f"[yellow]Note:[/] {escape(notice)}", highlight=False, soft_wrap=True)
    if out is not None:
        page = write_report(report, out)
        console.print(f"Report: {page}", highlight=False, soft_wrap=True)
    _raise_if_slow(report)


def _table(title: str, section: ComparisonSection) -> Table:
    # Narrow enough that the names of a bundle's files stay whole on 80 columns.
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("run", overflow="fold")
    for name in ("p50 ms", "p90 ms", "p99 ms", "images\n/s", "runs", "times faster"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, run in section.runs.items():
        ratio = section.ratios.get(name)
        table.add_row(
            escape(name.removesuffix(".onnx")),
            f"{run.latency_p50_ms:.3f}",
            f"{run.latency_p90_ms:.3f}",
            f"{run.latency_p99_ms:.3f}",
            f"{run.throughput:,.0f}",
            f"{run.samples:,}",
            f"{ratio.value:.2f} ({ratio.low:.2f}-{ratio.high:.2f})" if ratio else "1",
        )
    return table


def _power_table(section: PowerSection) -> Table:
    table = Table(title="Power", title_justify="left", box=None, pad_edge=False)
    table.add_column("run", overflow="fold")
    for name in ("mean W", "peak W", "mJ/image"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, run in section.runs.items():
        table.add_row(
            escape(name.removesuffix(".onnx")),
            f"{run.mean_w:.2f}",
            f"{run.peak_w:.2f}",
            f"{run.millijoules_per_image:.2f}",
        )
    return table


def _raise_if_slow(report: Report) -> None:
    latency = report.verdict.latency
    if latency is not None and latency.low <= 1:
        raise NotFasterError(
            f"Not faster than the baseline on this machine: {latency.ratio:.2f} times "
            f"({latency.low:.2f} to {latency.high:.2f})."
        )
