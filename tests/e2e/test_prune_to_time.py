"""Pruning to a time on this machine, from the measured networks to the bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgevision.errors import UnavailableError
from edgevision.pipeline import CompressResult, compress, timing
from tests.e2e.small import RECIPE

OVERRIDES: dict[str, Any] = {**RECIPE, "prune": {"speedup": 1.3, "fine_tune": {"epochs": 1}}}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Fewer and shorter measurements than deserve trust, and none kept from other runs."""
    monkeypatch.setenv("EDGEVISION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(timing, "NETWORKS", 16)
    monkeypatch.setattr(timing, "SECONDS", 2.0)
    monkeypatch.setattr(timing, "CONFIRM_SECONDS", 0.5)


def run(data: Path, out: Path, **changes: Any) -> CompressResult:
    overrides = {**OVERRIDES, **changes}
    return compress(RECIPE["model"], data=str(data), overrides=overrides, out=out)


@pytest.mark.usefixtures("quick")
def test_widths_are_chosen_from_measured_times(tmp_path: Path, image_folder: Path) -> None:
    result = run(image_folder, tmp_path)
    times = result.stages["profile"].json("latency.json")
    assert times["precision"] == "int8"
    assert len(times["milliseconds"]) == len(times["kept"]) == 16
    assert 0 <= times["error"] <= times["worst_error"]
    table = result.stages["prune"].json("table.json")
    assert (table["target"], table["asked"]) == ("speedup", 1.3)
    widths = result.stages["prune"].json("widths.json")
    (chosen,) = widths.values()
    assert all(
        chosen[name] in allowed
        for name, allowed in zip(times["groups"], times["allowed"], strict=True)
    )
    rows = {row["name"]: row for row in table["layers"]}
    for name, units in chosen.items():
        assert rows[name]["channels_after"][1] == units
    assert not list(result.stages["prune"].folder.glob("candidate*"))
    again = run(image_folder, tmp_path)
    assert again.stages["profile"].reused
    assert again.stages["prune"].reused


@pytest.mark.usefixtures("quick")
def test_a_time_out_of_reach_is_told(tmp_path: Path, image_folder: Path) -> None:
    from edgevision.errors import ModelError

    with pytest.raises(ModelError, match="narrowest network"):
        run(image_folder, tmp_path, prune={"speedup": 900.0})


def test_a_target_that_cannot_be_timed_here(tmp_path: Path, image_folder: Path) -> None:
    with pytest.raises(UnavailableError, match="cannot be timed here"):
        run(image_folder, tmp_path, target="rtx")
    assert not list((tmp_path / "stages").glob("baseline*")), "told only after hours of training"
