"""front: the points' bundles and FP32 measured in one run, as a page and as ``front.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevision.backends import get_backend
from edgevision.files import write_atomic
from edgevision.pipeline.candidates import BASELINE
from edgevision.pipeline.job import Job
from edgevision.pipeline.stages.export import INPUT_NAME, PRUNED
from edgevision.pipeline.stages.verify import speed_of
from edgevision.pipeline.store import Stage, StageResult
from edgevision.pipeline.timing import CLOSE
from edgevision.pipeline.verdict import keeps_budget

if TYPE_CHECKING:
    from edgevision.benchmark import Comparison
    from edgevision.benchmark.front import FrontRow, Kind

FIGURES, PAGE = "front.json", "front.html"
FP32 = "FP32"


@dataclass(frozen=True)
class Point:
    """A finished job of the front; ``asked`` None where nothing was pruned."""

    job: Job
    asked: float | None

    @property
    def figures(self) -> dict[str, Any]:
        """Of its verify stage."""
        found: dict[str, Any] = self.job.done("verify").json("verify.json")
        return found

    @property
    def shipped(self) -> str:
        """The file that its verdict speaks of."""
        return str(self.figures["verdict"]["shipped"])

    @property
    def table(self) -> dict[str, Any] | None:
        """Of its prune stage: every layer before and after."""
        return self.job.done("prune").json("table.json") if "prune" in self.job.results else None


class FrontStage(Stage[Job]):
    """Outputs ``front.json`` and ``front.html``.

    What verifying each point measured was measured at different times; here all are timed in turns.
    """

    name = "front"

    def __init__(self, points: Mapping[str, Point]) -> None:
        self._points = points

    def depends(self, job: Job) -> dict[str, Any]:
        from edgevision.devices import package_versions, this_machine

        return {
            "bundles": {name: point.job.key("bundle") for name, point in self._points.items()},
            "asked": {name: point.asked for name, point in self._points.items()},
            "versions": package_versions(),
            "machine": asdict(this_machine()),
        }

    def reusable(self, result: StageResult) -> bool:
        """What was measured on a busy machine is measured again."""
        return all(row["steady"] for row in result.json(FIGURES)["rows"])

    def run(self, job: Job, work: Path) -> None:
        from edgevision.benchmark.front import Front, fastest_within, marked
        from edgevision.benchmark.front_page import render_front
        from edgevision.benchmark.report_schema import ComparisonSection

        comparison = self._measure(job)
        rows = marked(self._rows(job, comparison))
        first = next(iter(self._points.values())).figures
        front = Front(
            model=job.recipe.model,
            data=job.recipe.data,
            target=job.target.name,
            metric=first["metric"],
            images=first["images"],
            budget=job.recipe.verify.max_accuracy_drop,
            rows=rows,
            fastest_within=fastest_within(rows[1:]),
            latency=ComparisonSection.model_validate(comparison.to_dict()),
        )
        write_atomic(work / FIGURES, front.to_bytes())
        write_atomic(work / PAGE, render_front(front).encode())

    def _measure(self, job: Job) -> Comparison:
        from edgevision.benchmark import BenchConfig, compare, opened_graphs

        paths = {
            name: point.job.done("bundle").path("bundle") / point.shipped
            for name, point in self._points.items()
        }
        bounds, backend = job.recipe.verify, get_backend(job.target.backend)
        image = job.preprocessing.geometry(job.data.validation.image(0))
        feeds = {INPUT_NAME: job.preprocessing.normalize(image[None])}
        graphs = {FP32: job.done("export").path(BASELINE), **paths}
        with opened_graphs(graphs, backend, feeds, bounds.threads) as runs:
            return compare(
                runs,
                baseline=FP32,
                config=BenchConfig(seconds=bounds.seconds * len(paths), seed=job.recipe.seed),
                progress=lambda phase, share: job.progress(
                    f"latency of the front: {phase}", round(share * 100), 100, ""
                ),
            )

    def _rows(self, job: Job, comparison: Comparison) -> list[FrontRow]:
        from edgevision.benchmark.front import FrontRow

        tables = {name: point.table for name, point in self._points.items()}
        whole = next((table["macs_before"] for table in tables.values() if table), None)
        allowed = job.recipe.verify.max_accuracy_drop
        base = next(iter(self._points.values())).figures["rows"][0]

        def row(name: str, measured: Mapping[str, Any], **more: Any) -> FrontRow:
            speed = asdict(speed_of(comparison, name))
            return FrontRow(
                name=name,
                artifact=measured["name"],
                accuracy=measured["accuracy"],
                drop=base["accuracy"] - measured["accuracy"],
                bytes=measured["size"],
                within_budget=keeps_budget(base["accuracy"], measured["accuracy"], allowed),
                **{**speed, **more},
            )

        rows = [row(FP32, base, kind="FP32", macs=whole)]
        for name, point in self._points.items():
            figures, table = point.figures, tables[name]
            measured = next(r for r in figures["rows"] if r["name"] == point.shipped)
            speed = speed_of(comparison, name).speedup
            rows.append(
                row(
                    name,
                    measured,
                    kind=_kind(point),
                    asked=point.asked,
                    macs=table["macs_after"] if table else whole,
                    widths=_widths(table) if table else {},
                    reached=point.asked is None or speed >= point.asked * (1 - CLOSE),
                    passed=figures["verdict"]["passed"],
                )
            )
        return rows


def _kind(point: Point) -> Kind:
    if point.shipped == PRUNED:
        return "pruned FP32"
    return "INT8 only" if point.asked is None else "pruned + INT8"


def _widths(table: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Layer → output channels before and after, where they differ."""
    found = {
        row["name"]: (row["channels_before"][1], row["channels_after"][1])
        for row in table["layers"]
    }
    return {name: pair for name, pair in found.items() if pair[0] != pair[1]}
