"""``compress``: from a model, images and a target to a proven bundle."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgevision.bundle import open_bundle
from edgevision.errors import BundleError
from edgevision.files import publish_folder
from edgevision.pipeline.candidates import emission, graphs
from edgevision.pipeline.job import Job, Progress, prepare, silent
from edgevision.pipeline.stages.baseline import Baseline
from edgevision.pipeline.stages.build import Build
from edgevision.pipeline.stages.bundle import BundleStage
from edgevision.pipeline.stages.export import Export, ExportPruned
from edgevision.pipeline.stages.profile import Profile
from edgevision.pipeline.stages.prune import Prune
from edgevision.pipeline.stages.quantize import Quantize
from edgevision.pipeline.stages.recover import Recover
from edgevision.pipeline.stages.regions import Regions
from edgevision.pipeline.stages.shorten import Shorten
from edgevision.pipeline.stages.sparse import Sparse
from edgevision.pipeline.stages.verify import Verify
from edgevision.pipeline.store import Stage, StageResult, StageStore
from edgevision.pipeline.verdict import Verdict
from edgevision.recipe import Recipe, load_recipe, merge


@dataclass(frozen=True)
class CompressResult:
    """What ``compress`` left.

    Attributes:
        bundle: folder of the bundle; when the verdict failed, of the best candidate.
        report: the HTML page inside it.
        verdict: whether it may ship.
        figures: the verify stage's measurements, as in ``verify.json``.
        stages: each stage's result, by name.
        emission: what emitting the shipped graph told (``asked``, ``left_in_float``, …); empty
            where it is a float one.
    """

    bundle: Path
    report: Path
    verdict: Verdict
    figures: dict[str, Any]
    stages: dict[str, StageResult]
    emission: dict[str, Any]

    def raise_for_verdict(self) -> None:
        """Do nothing when the verdict passed.

        Raises:
            AccuracyBudgetError: the best candidate loses more accuracy than allowed.
            NotFasterError: it is not as fast as asked.
        """
        error = self.verdict.error()
        if error is not None:
            raise error


def compress(
    model: str | Recipe,
    *,
    data: str | None = None,
    target: str | None = None,
    max_accuracy_drop: float | None = None,
    recipe: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    progress: Progress = silent,
) -> CompressResult:
    """Train or load, prune, quantize, build and prove ``model``, and write a bundle.

    Every finished stage is kept in ``out``; called again with the same arguments, the work goes on
    where it stopped, and the bundle is the same byte for byte except for measured times.

    Args:
        model: timm or torchvision name, a family of ours, ``file.py:factory``, a checkpoint or an
            ``.onnx`` file, which is neither trained nor pruned; or a whole ``Recipe``, which takes
            the place of all the fields below.
        data: built-in name, image folder, Hugging Face name or parquet folder.
        target: a name from ``edgevision targets``, or a YAML file.
        max_accuracy_drop: percentage points that may be lost against FP32.
        recipe: YAML file or preset with the same fields and more; arguments override it.
        overrides: further recipe fields, nested, e.g. ``{"prune": {"macs": 0.5}}``.
        out: folder for stages and bundle; default ``runs/MODEL-DATA-TARGET``.
        progress: called with (phase, done, total, note).

    Raises:
        EdgeVisionError: bad input or a target that is not available here; see the exit codes.
            A failed verdict is no exception: see ``CompressResult.raise_for_verdict``.

    Example:
        >>> result = compress("cifar-resnet20", data="cifar10", target="cpu", max_accuracy_drop=0.5)
        >>> result.raise_for_verdict()
    """
    if isinstance(model, Recipe):
        resolved = model
    else:
        bounds = {"max_accuracy_drop": max_accuracy_drop}
        given = {"model": model, "data": data, "target": target, "verify": bounds}
        resolved = load_recipe(recipe, merge(overrides or {}, given))
    folder = Path(out) if out is not None else default_folder(resolved)
    store = StageStore(folder / "stages")
    with store.locked():
        job = prepare(resolved, progress)
        return make_bundle(job, store, folder / "bundle")


def make_bundle(job: Job, store: StageStore, bundle: Path) -> CompressResult:
    """Run the stages that ``job`` has no results of yet, and publish its bundle as ``bundle``."""
    wanted = [stage for stage in stages_of(job.recipe) if stage.name not in job.results]
    run_stages(wanted, job, store)
    _publish(job, bundle)
    figures = job.done("verify").json("verify.json")
    verdict = Verdict(**{**figures["verdict"], "reasons": tuple(figures["verdict"]["reasons"])})
    shipped = next(graph for graph in graphs(job) if graph.file == verdict.shipped)
    return CompressResult(
        bundle, bundle / "report.html", verdict, figures, job.results, emission(job, shipped)
    )


def run_stages(stages: Iterable[Stage[Job]], job: Job, store: StageStore) -> None:
    """Run ``stages`` in order, or find what they gave before; results go into the job."""
    for stage in stages:
        result = store.run(stage, job)
        job.results[stage.name] = result
        if result.reused:
            job.progress(f"{stage.name}: kept from an earlier run", 1, 1, "")


def stages_of(recipe: Recipe) -> list[Stage[Job]]:
    """The stages that ``recipe`` asks for, in order."""
    from edgevision.pruning.config import asks_for_time

    stages: list[Stage[Job] | None] = [
        Baseline(),
        Profile() if asks_for_time(recipe.prune or {}) else None,
        Sparse() if (recipe.prune or {}).get("sparse_epochs") else None,
        Shorten() if (recipe.prune or {}).get("depth") else None,
        Prune() if recipe.prune else None,
        Export(),
        ExportPruned() if recipe.prune else None,
        Quantize() if recipe.quantize else None,
        Recover() if recipe.quantize else None,
        Regions() if recipe.quantize and recipe.quantize.regions else None,
        Build() if recipe.build else None,
        Verify(),
        BundleStage(),
    ]
    return [stage for stage in stages if stage is not None]


def default_folder(recipe: Recipe) -> Path:
    """``runs/MODEL-DATA-TARGET`` below the working folder."""
    parts = [Path(recipe.model).name or "model", Path(recipe.data).name or "data", recipe.target]
    return Path("runs") / "-".join(re.sub(r"[^A-Za-z0-9_.]+", "_", part) for part in parts)


def _publish(job: Job, final: Path) -> None:
    """Copy the stage's bundle to ``final`` in one rename; users may move or delete it.

    One that is there, whole and of the same lineage stays: an engine may have been added to it.
    """
    work = final.with_name(f".{final.name}.new")
    if job.done("bundle").reused and _same_lineage(final, job.done("bundle").path("bundle")):
        return
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(job.done("bundle").path("bundle"), work)
    publish_folder(work, final)


def _same_lineage(final: Path, made: Path) -> bool:
    try:
        with open_bundle(final) as there, open_bundle(made) as new:
            return there.manifest.lineage == new.manifest.lineage
    except BundleError:
        return False
