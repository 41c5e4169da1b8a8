"""``compress --front N``: bundles of one network from accurate to fast, measured together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevision.errors import RecipeError, UnavailableError, UsageError
from edgevision.files import write_atomic
from edgevision.pipeline.compress import CompressResult, default_folder, make_bundle, run_stages
from edgevision.pipeline.job import Job, Progress, prepare, silent
from edgevision.pipeline.stages.baseline import Baseline
from edgevision.pipeline.stages.export import Export
from edgevision.pipeline.stages.front import FIGURES, PAGE, FrontStage, Point
from edgevision.pipeline.stages.profile import Profile
from edgevision.pipeline.stages.speeds import SPEEDS, Speeds
from edgevision.pipeline.store import StageStore
from edgevision.recipe import Recipe

if TYPE_CHECKING:
    from edgevision.benchmark.front import Front

FEWEST, MOST = 2, 12
_POINT = "front-"
_ANY = 2.0  # a pruning configuration needs a target; this one stands until the speeds are chosen


@dataclass(frozen=True)
class FrontResult:
    """What ``compress_front`` left.

    Attributes:
        front: all rows, as in ``front.json``.
        figures, page: that file and ``front.html``.
        points: name of the bundle's folder → what ``compress`` would give for that point.
        earlier: bundles of a larger front that was made in the same folder before; they are kept,
            but no part of this front.
    """

    front: Front
    figures: Path
    page: Path
    points: dict[str, CompressResult]
    earlier: tuple[Path, ...] = ()


def compress_front(
    recipe: Recipe, points: int, *, out: str | Path | None = None, progress: Progress = silent
) -> FrontResult:
    """Make ``points`` bundles, from INT8 alone to pruned and several times as fast.

    Each point is pruned from the baseline to its own measured speed, as ``compress`` does for
    ``prune.speedup``, and lies in ``OUT/front-K`` with its report and its own verdict: at most
    ``verify.max_accuracy_drop``, and as fast as INT8 alone. The front is an offer: a point that
    misses that, or its speed, is told, not raised. Training, export and times of the baseline are
    shared; called again after an interruption, points that are done are kept. Bundles of a larger
    front in the same folder stay, as they may be in use.

    Args:
        recipe: as for ``compress``. ``prune`` may set anything but another target than
            ``speedup``, which is the speed of the fastest point; default: four times INT8's, or
            less where the widths do not give that.
        points: 2 to 12.
        out: folder for stages, bundles and page; default ``runs/MODEL-DATA-TARGET``.
        progress: called with (phase, done, total, note).

    Raises:
        UsageError: the number of points, or a recipe that contradicts a front.
        UnavailableError: the target cannot be timed on this machine.
        EdgeVisionError: bad input, as for ``compress``.

    Example:
        >>> recipe = load_recipe(None, {"model": "fastnet", "data": "cifar10", "target": "cpu"})
        >>> compress_front(recipe, 6).front.fastest_within
        'front-4'
    """
    base = prepare_front(recipe, points, progress)
    folder = Path(out) if out is not None else default_folder(recipe)
    store = StageStore(folder / "stages")
    with store.locked():
        assert base.prune is not None
        fastest = base.prune.speedup if "speedup" in _without_none(recipe.prune or {}) else None
        stages = [Baseline(), Profile(), Export(), Speeds(points, fastest)]
        run_stages(stages, base, store)
        made: dict[str, Point] = {}
        results: dict[str, CompressResult] = {}
        for number, (job, asked) in enumerate(point_jobs(base, recipe), 1):
            name = f"{_POINT}{number}"
            job.progress = _told(progress, f"point {number} of {points}")
            results[name] = make_bundle(job, store, folder / name)
            made[name] = Point(job, asked)
        run_stages([FrontStage(made)], base, store)
        for name in (FIGURES, PAGE):
            write_atomic(folder / name, base.done("front").path(name).read_bytes())
    return FrontResult(
        read_front(folder / FIGURES), folder / FIGURES, folder / PAGE, results,
        earlier_points(folder, points),
    )  # fmt: skip


def prepare_front(recipe: Recipe, points: int, progress: Progress = silent) -> Job:
    """Check everything and resolve ``recipe``; its ``prune.speedup`` means nothing yet.

    Raises:
        EdgeVisionError: as ``compress_front``.
    """
    _require_front(recipe, points)
    prune = {"speedup": _ANY, **_without_none(recipe.prune or {})}
    return prepare(recipe.model_copy(update={"prune": prune}), progress)


def earlier_points(folder: Path, points: int) -> tuple[Path, ...]:
    """Bundles in ``folder`` of a front of more than ``points`` points, in order."""
    numbers = range(points + 1, MOST + 1)
    found = (folder / f"{_POINT}{number}" for number in numbers)
    return tuple(path for path in found if path.exists())


def read_front(path: Path) -> Front:
    """The front in the file ``path``, as ``compress_front`` wrote it."""
    from edgevision.benchmark.front import Front

    return Front.model_validate_json(path.read_bytes())


def point_jobs(base: Job, recipe: Recipe) -> list[tuple[Job, float | None]]:
    """The job of each point with the speed it is asked for: INT8 alone, then pruned ones."""
    assert base.prune is not None
    shared = {name: base.done(name) for name in ("baseline", "export")}
    alone = recipe.model_copy(update={"prune": None})
    found: list[tuple[Job, float | None]] = [
        (replace(base, recipe=alone, prune=None, fine_tune=None, results=dict(shared)), None)
    ]
    shared["profile"] = base.done("profile")
    first, *others = base.done("speeds").json(SPEEDS)["speeds"]
    # What is asked of a point is no promise to anybody, but slower than INT8 alone it is no offer.
    bound = first if recipe.verify.speedup is None else recipe.verify.speedup
    verify = recipe.verify.model_copy(update={"speedup": bound})
    for asked in others:
        section = {**(recipe.prune or {}), "speedup": asked}
        own = recipe.model_copy(update={"prune": section, "verify": verify})
        prune = base.prune.model_copy(update={"speedup": asked})
        job = replace(base, recipe=own, prune=prune, results=dict(shared), is_offer=True)
        found.append((job, asked))
    return found


def _require_front(recipe: Recipe, points: int) -> None:
    from edgevision.pipeline.survey import timing_status
    from edgevision.pruning.config import TARGETS
    from edgevision.targets import load_target

    if not FEWEST <= points <= MOST:
        raise UsageError(f"Expected a front of {FEWEST} to {MOST} points, got {points}.")
    others = [name for name in TARGETS if name != "speedup"]
    given = _without_none(recipe.prune or {})
    for name in others:
        if name in given:
            raise UsageError(
                f"A front chooses widths by measured speed, but pruning to {name} "
                f"{given[name]} is asked for.",
                hint="Leave it out. --prune-speedup says how fast the fastest point is to be.",
            )
    if not recipe.build:
        raise UsageError(
            "A front is of measured times, and without building nothing is measured.",
            hint="Leave --no-build out, or make one bundle without --front.",
        )
    target = load_target(recipe.target)
    times = timing_status(target)
    if not times.ok:
        raise UnavailableError(
            f"A front is of measured times, and '{target.reference}' cannot be timed here: "
            f"{times.reason}.",
            hint="Make one bundle instead (--prune-macs 0.5 without --front). "
            f"{times.hint}".rstrip(),
        )
    if recipe.quantize is None or target.scheme is None:
        why = target.scheme_reason if recipe.quantize is not None else "quantization is off"
        raise RecipeError(
            f"A front starts from INT8 alone, and there is none: {why}.",
            hint="Make one bundle instead (--prune-speedup 2 without --front).",
        )


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _told(progress: Progress, where: str) -> Progress:
    return lambda phase, done, total, note: progress(f"{where}: {phase}", done, total, note)
