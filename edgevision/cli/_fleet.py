"""``edgevision bench --fleet``: one table of several devices."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from edgevision.errors import EdgeVisionError, NotFasterError, UnavailableError

if TYPE_CHECKING:
    from edgevision.benchmark.report_schema import Report


def bench_devices(bundle: Path, fleet: Path, out: Path | None, **options: Any) -> None:
    """Measure ``bundle`` on every device of ``fleet`` and show what came of it.

    Raises:
        UnavailableError: a device was not measured.
        NotFasterError: one is not faster than the baseline.
    """
    from edgevision.pipeline.fleet import bench_fleet, read_fleet

    devices = read_fleet(fleet)
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description:<20}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("{task.fields[phase]}"),
        console=console,
        disable=not console.is_terminal,
    ) as bars:
        tasks = {name: bars.add_task(name, total=1.0, phase="connecting") for name in devices}
        found = bench_fleet(
            bundle,
            devices,
            progress=lambda name, phase, share: bars.update(
                tasks[name], completed=share, phase=phase
            ),
            **options,
        )
    Console().print(_table(found))
    if out is not None:
        _write(found, out)
    _raise(found)


def _table(found: Mapping[str, Report | EdgeVisionError]) -> Table:
    table = Table(title="Device latency", title_justify="left", box=None, pad_edge=False)
    for name in ("device", "machine", "what ran"):
        table.add_column(name, overflow="fold")
    for name in ("FP32\nms", "p50\nms", "times faster", "mJ/\nimage"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, report in found.items():
        if isinstance(report, EdgeVisionError):
            table.add_row(escape(name), f"[red]{escape(report.message)}[/]")
            continue
        section = report.latency
        assert section is not None
        machine = report.environment["device"]
        runs = [run for run in section.runs if run != section.baseline]
        for run in runs:
            ratio = section.ratios[run]
            power = report.power.runs.get(run) if report.power is not None else None
            table.add_row(
                escape(name),
                escape(str(machine["name"]) if isinstance(machine, dict) else ""),
                escape(run.removesuffix(".onnx")),
                f"{section.runs[section.baseline].latency_p50_ms:.3f}",
                f"{section.runs[run].latency_p50_ms:.3f}",
                f"{ratio.value:.2f} ({ratio.low:.2f}-{ratio.high:.2f})",
                f"{power.millijoules_per_image:.2f}" if power is not None else "",
            )
    return table


def _write(found: Mapping[str, Report | EdgeVisionError], out: Path) -> None:
    from edgevision.benchmark.report import write_report

    for name, report in found.items():
        if not isinstance(report, EdgeVisionError):
            write_report(report, out / name)
    Console().print(f"Reports: {out}", highlight=False, soft_wrap=True)


def _raise(found: Mapping[str, Report | EdgeVisionError]) -> None:
    failed = {name: one for name, one in found.items() if isinstance(one, EdgeVisionError)}
    if failed:
        hints = [f"{name}: {error.hint}" for name, error in failed.items() if error.hint]
        raise UnavailableError(
            f"{len(failed)} of {len(found)} devices were not measured: {', '.join(failed)}.",
            hint="\n".join(hints) or None,
        )
    slow = [
        name
        for name, one in found.items()
        if not isinstance(one, EdgeVisionError)
        and one.verdict.latency is not None
        and one.verdict.latency.low <= 1
    ]
    if slow:
        raise NotFasterError(f"Not faster than the baseline on: {', '.join(slow)}.")
