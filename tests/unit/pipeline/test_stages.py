from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgevision.errors import ModelError, RecipeError, UsageError
from edgevision.pipeline.job import Job, model_digest, prepare, resolve_input
from edgevision.pipeline.stages.build import Build
from edgevision.pipeline.stages.quantize import Quantize
from edgevision.pipeline.stages.verify import Verify
from edgevision.pipeline.store import StageResult
from edgevision.preprocessing import Preprocessing
from edgevision.recipe import InputSection, Recipe

BASE: dict[str, Any] = {"model": "plain-cnn", "data": "fashion-mnist-mini"}


def job_for(target: str, **fields: Any) -> Job:
    job = prepare(Recipe(**{**BASE, "target": target, "build": False, **fields}))
    for name in ("baseline", "export", "quantize"):
        job.results[name] = StageResult(name, name, Path(name), reused=True)
    return job


def test_two_targets_share_no_result_that_depends_on_the_target() -> None:
    rtx, gpu = job_for("rtx"), job_for("gpu")
    assert Verify().depends(rtx) != Verify().depends(gpu)
    assert Build().depends(rtx) != Build().depends(gpu)


def test_a_change_of_scheme_is_a_change_of_key() -> None:
    job = job_for("rtx")
    other = job_for("rtx")
    other.target = other.target.model_copy(update={"scheme": "x86-vnni"})
    for stage in (Quantize(), Build(), Verify()):
        assert stage.depends(job) != stage.depends(other)


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"model": "nosuchmodel"}, ModelError, "Unknown model 'nosuchmodel'"),
        ({"quantize": {"method": "percentle"}}, UsageError, "Did you mean 'percentile'"),
        ({"quantize": None}, RecipeError, "Nothing to compress with"),
        ({"train": {"devices": 2}}, RecipeError, "compress trains in one process"),
        ({"prune": {"mac": 0.5}}, RecipeError, "Did you mean 'macs'"),
        ({"prune": {"macs": 0.5, "params": 0.5}}, RecipeError, "exactly one target"),
    ],
)
def test_what_cannot_work_is_told_before_anything_runs(
    fields: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        prepare(Recipe(**{**BASE, "build": False, "target": "rtx", **fields}))


def test_the_source_of_a_factory_is_part_of_the_model(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text("a = 1")
    recipe = Recipe(model=f"{file}:make", data="x")
    before = model_digest(recipe, None, None)
    file.write_text("a = 2")
    assert model_digest(recipe, None, None) != before


def test_means_follow_a_change_of_colour() -> None:
    gray = Preprocessing(28, 28, color="gray", mean=(0.3,), std=(0.4,))
    rgb = resolve_input(gray, InputSection(color="rgb", size=32))
    assert (rgb.height, rgb.mean, rgb.std) == (32, (0.3,) * 3, (0.4,) * 3)
