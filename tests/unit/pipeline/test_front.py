"""The choice of speeds, what is refused, and what each point's job shares with the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgevision.cli._front import earlier_lines
from edgevision.errors import EdgeVisionError, ModelError, RecipeError, UnavailableError, UsageError
from edgevision.files import write_json
from edgevision.pipeline.front import compress_front, earlier_points, point_jobs, prepare_front
from edgevision.pipeline.job import Job
from edgevision.pipeline.stages.export import Export, ExportPruned
from edgevision.pipeline.stages.quantize import Quantize
from edgevision.pipeline.stages.speeds import SPEEDS, spread_speeds
from edgevision.pipeline.store import StageResult
from edgevision.recipe import Recipe

BASE: dict[str, Any] = {"model": "plain-cnn", "data": "fashion-mnist-mini", "target": "cpu"}


def test_speeds_rise_in_equal_ratios_from_int8_to_four_times_that() -> None:
    speeds = spread_speeds(3.0, 100.0, 5)
    assert speeds[0] == 3.0
    assert speeds[-1] == 12.0
    ratios = np.divide(speeds[1:], speeds[:-1])
    np.testing.assert_allclose(ratios, 4 ** (1 / 4), rtol=0.005)


def test_where_the_widths_give_less_the_fastest_keeps_off_the_narrowest() -> None:
    speeds = spread_speeds(3.0, 6.0, 4)
    assert 3.0 * 2**0.85 < speeds[-1] < 6.0


def test_the_fastest_that_was_asked_for_is_the_last() -> None:
    assert spread_speeds(2.5, 9.0, 3, fastest=8.0)[-1] == 8.0


def test_where_int8_is_slower_than_fp32_points_start_from_fp32() -> None:
    speeds = spread_speeds(0.8, 5.0, 3)
    assert speeds[0] == 1.0
    assert all(speed > 1.0 for speed in speeds[1:])


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ((3.0, 9.0, 4, 2.9), UsageError, "above INT8 alone, which is 3.00 times"),
        ((3.0, 9.0, 4, 9.5), ModelError, "at most 9.00 times FP32's speed"),
        ((3.0, 3.6, 6, None), ModelError, "6 points between 3.00 and 3.53 times .* 3.3 % apart"),
        ((3.0, 3.0, 2, None), ModelError, "0.0 % apart"),
    ],
)
def test_speeds_that_cannot_be(
    arguments: tuple[Any, ...], kind: type[EdgeVisionError], message: str
) -> None:
    with pytest.raises(kind, match=message) as found:
        spread_speeds(*arguments)
    assert found.value.hint


@pytest.mark.parametrize("reach", [3.2, 3.4, 3.6, 4.0, 6.0])
def test_the_number_of_points_in_the_hint_works(reach: float) -> None:
    with pytest.raises(ModelError) as found:
        spread_speeds(3.0, reach, 40)
    hint = found.value.hint or ""
    if "--front" not in hint.split(",")[0]:
        with pytest.raises(ModelError):
            spread_speeds(3.0, reach, 2)
        return
    most = int(hint.split("--front ")[1].split(",")[0])
    assert len(spread_speeds(3.0, reach, most)) == most
    with pytest.raises(ModelError):
        spread_speeds(3.0, reach, most + 1)


@pytest.mark.parametrize(
    ("fields", "points", "kind", "message"),
    [
        ({}, 1, UsageError, "2 to 12 points, got 1"),
        ({}, 13, UsageError, "2 to 12 points, got 13"),
        ({"prune": {"macs": 0.5}}, 3, UsageError, "pruning to macs 0.5 is asked for"),
        ({"prune": {"latency_ms": 2}}, 3, UsageError, "pruning to latency_ms 2 is asked for"),
        ({"prune": {"speedup": 4, "params": 0.1}}, 3, UsageError, "pruning to params 0.1"),
        ({"build": False}, 3, UsageError, "without building nothing is measured"),
        ({"target": "rtx"}, 3, UnavailableError, "'rtx' cannot be timed here"),
        ({"target": "jetson-thor"}, 3, UnavailableError, "cannot be timed here"),
        ({"quantize": None}, 3, RecipeError, "there is none: quantization is off"),
        ({"prune": {"speedup": "fast"}}, 3, RecipeError, "recipe.prune.speedup"),
        ({"prune": {"steeps": 2}}, 3, RecipeError, "Did you mean 'steps'"),
        ({"model": "net.onnx"}, 3, UsageError, "cannot be pruned"),
        ({"data": "nosuchdata"}, 3, EdgeVisionError, "nosuchdata"),
    ],
)
def test_what_makes_no_sense_is_told_before_anything_runs(
    tmp_path: Path, fields: dict[str, Any], points: int, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        compress_front(Recipe(**{**BASE, **fields}), points, out=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def prepared(tmp_path: Path) -> tuple[Job, Recipe]:
    """A job with results of the stages that all points share."""
    recipe = Recipe(**BASE, prune={"max_ratio": 0.8, "fine_tune": {"epochs": 1}})
    base = prepare_front(recipe, 3)
    for name in ("baseline", "profile", "export", "speeds"):
        base.results[name] = StageResult(name, name, tmp_path / name, reused=True)
    write_json(tmp_path / "speeds" / SPEEDS, {"speeds": [3.0, 5.0, 8.0]})
    return base, recipe


def test_points_are_int8_alone_and_pruned_to_each_speed(prepared: tuple[Job, Recipe]) -> None:
    (alone, nothing), *pruned = point_jobs(*prepared)
    assert (alone.prune, alone.recipe.prune, nothing) == (None, None, None)
    assert alone.recipe.verify.speedup is None
    assert [asked for _, asked in pruned] == [5.0, 8.0]
    for job, asked in pruned:
        assert job.prune is not None
        assert job.prune.target == ("speedup", asked)
        assert job.prune.max_ratio == 0.8
        assert job.is_offer
        assert job.recipe.prune == {
            "max_ratio": 0.8, "fine_tune": {"epochs": 1}, "speedup": asked
        }  # fmt: skip
        assert job.recipe.verify.speedup == 3.0  # of INT8 alone
    assert len({id(job.results) for job in (alone, pruned[0][0], pruned[1][0])}) == 3


def test_a_speed_that_the_user_promises_binds_every_point(prepared: tuple[Job, Recipe]) -> None:
    base, recipe = prepared
    asked = recipe.model_copy(update={"verify": recipe.verify.model_copy(update={"speedup": 4.0})})
    assert {job.recipe.verify.speedup for job, _ in point_jobs(base, asked)} == {4.0}


def test_points_share_the_baseline_s_export_and_nothing_that_pruning_changes(
    prepared: tuple[Job, Recipe],
) -> None:
    jobs = [job for job, _ in point_jobs(*prepared)]
    assert len({str(Export().depends(job)) for job in jobs}) == 1
    for number, job in enumerate(jobs[1:]):
        job.results["prune"] = StageResult("prune", f"prune{number}", Path("prune"), reused=True)
    exports = [ExportPruned().depends(job) for job in jobs[1:]]
    assert exports[0] != exports[1]
    for number, job in enumerate(jobs[1:]):
        job.results["export-pruned"] = StageResult("x", f"key{number}", Path("x"), reused=True)
    assert len({str(Quantize().depends(job)) for job in jobs}) == 3


def test_bundles_of_a_larger_front_are_told_and_kept(tmp_path: Path) -> None:
    for number in (1, 2, 3, 4, 5, 10):
        (tmp_path / f"front-{number}").mkdir()
    (tmp_path / "front-mine").mkdir()
    found = earlier_points(tmp_path, 3)
    assert [path.name for path in found] == ["front-4", "front-5", "front-10"]
    (line,) = earlier_lines(found)
    assert "front-4, front-5, front-10" in line
    assert all(path.exists() for path in found)
    assert earlier_points(tmp_path, 10) == ()
    assert earlier_lines(()) == []
