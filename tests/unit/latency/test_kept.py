"""Times kept between runs, and what they are kept under."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper
from pydantic import ValidationError

from edgevision.backends import get_backend
from edgevision.latency import (
    KeptCells,
    KeptLengths,
    KeptTimes,
    WidthTimes,
    place_of,
    structure_digest,
)
from edgevision.latency.cells import LayerShape, cell_model

KEY: dict[str, Any] = {"structure": "a", "threads": 1}
AB = ("a", "b")


def times_of(networks: int, seconds: float) -> WidthTimes:
    return WidthTimes(
        groups=("a", "b"),
        allowed=((8, 4), (6, 3)),
        kept=((8, 6),) * networks,
        milliseconds=(1.0,) * networks,
        precision="int8",
        backend="onnxruntime 1",
        device="a processor",
        threads=None,
        seconds=seconds,
        load=0.5,
        measured="2026-01-31T12:00:00+00:00",
    )


def test_a_set_is_found_again_by_who_asks_for_no_more(tmp_path: Path) -> None:
    kept, times = KeptTimes(tmp_path), times_of(12, 4.0)
    assert kept.find(KEY, groups=AB, networks=12, seconds=4.0) is None
    kept.keep(KEY, times)
    assert kept.find(KEY, groups=AB, networks=12, seconds=4.0) == times
    assert KeptTimes(tmp_path).find(KEY, groups=AB, networks=10, seconds=1.0) == times
    assert kept.find(KEY, groups=AB, networks=13, seconds=4.0) is None
    assert kept.find(KEY, groups=AB, networks=12, seconds=5.0) is None
    assert kept.find(KEY, groups=("b", "a"), networks=12, seconds=4.0) is None, "other columns"
    assert kept.find({**KEY, "threads": 2}, groups=AB, networks=12, seconds=4.0) is None


def test_tests_keep_no_times_in_the_users_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    KeptTimes().keep(KEY, times_of(12, 4.0))
    assert list(tmp_path_factory.getbasetemp().glob("cache*/latency/networks/*.json"))


def test_a_damaged_entry_counts_as_none(tmp_path: Path) -> None:
    kept = KeptTimes(tmp_path)
    kept.keep(KEY, times_of(12, 4.0))
    (path,) = tmp_path.rglob("*.json")
    path.write_bytes(path.read_bytes()[:40])
    assert kept.find(KEY, groups=AB, networks=12, seconds=4.0) is None


def test_rows_that_do_not_fit_the_groups_are_refused() -> None:
    values = times_of(2, 1.0).model_dump()
    with pytest.raises(ValidationError, match="expected 2 times, got 1"):
        WidthTimes.model_validate({**values, "milliseconds": (1.0,)})
    with pytest.raises(ValidationError, match="expected 2 groups"):
        WidthTimes.model_validate({**values, "kept": ((8,), (8,))})
    with pytest.raises(ValidationError, match=r"one of \(6, 3\) units in 'b', got 5"):
        WidthTimes.model_validate({**values, "kept": ((8, 6), (8, 5))})


@pytest.mark.parametrize("time", ["NaN", "Infinity", "-1.0", "0.0", '"fast"'])
def test_times_that_cannot_be_count_as_none(tmp_path: Path, time: str) -> None:
    kept = KeptTimes(tmp_path)
    kept.keep(KEY, times_of(12, 4.0))
    (path,) = tmp_path.rglob("*.json")
    text = path.read_text(encoding="utf-8")
    assert "1.0" in text
    path.write_text(text.replace("1.0", time, 1), encoding="utf-8")
    assert kept.find(KEY, groups=AB, networks=12, seconds=4.0) is None


@pytest.mark.parametrize(
    "cell",
    ["NaN", "-1", "0", "Infinity", "1" + "0" * 400, "[]"],
)
def test_a_damaged_cell_is_measured_again(tmp_path: Path, cell: str) -> None:
    table = KeptCells({}, "fp32", tmp_path)
    table.keep({"one": {"ms": 1.5, "measured": "then"}})
    (path,) = tmp_path.rglob("*.json")
    path.write_text(path.read_text(encoding="utf-8").replace("1.5", cell), encoding="utf-8")
    assert table.all() == {}
    table.keep({"two": {"ms": 2.0, "measured": "now"}})
    assert set(table.all()) == {"two"}


def test_a_cache_that_cannot_be_written_costs_no_times(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "latency").write_text("a file", encoding="utf-8")
    KeptTimes(tmp_path).keep(KEY, times_of(12, 4.0))
    KeptLengths(tmp_path).keep(KEY, {"a": {}})
    KeptCells({}, "fp32", tmp_path).keep({"one": {"ms": 1.5, "measured": "then"}})
    assert len(caplog.messages) == 3
    assert all("Times are not kept for later runs" in line for line in caplog.messages)


def test_structure_is_told_by_all_but_weights() -> None:
    shape = LayerShape("Conv", (8, 8), (3, 3), 1, False)
    model = cell_model(shape, 8, 4)
    other = cell_model(shape, 8, 4)
    weight = other.graph.initializer[0]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 2, weight.name))
    assert structure_digest(model) == structure_digest(other)
    assert structure_digest(model) != structure_digest(cell_model(shape, 16, 4))
    strided = cell_model(LayerShape("Conv", (8, 8), (3, 3), 2, False), 8, 4)
    assert structure_digest(model) != structure_digest(strided)
    axes = numpy_helper.from_array(np.array([1, 2], np.int64), "axes")
    model.graph.initializer.append(axes)
    before = structure_digest(model)
    axes = numpy_helper.from_array(np.array([1, 3], np.int64), "axes")
    model.graph.initializer[-1].CopyFrom(axes)
    assert structure_digest(model) != before, "the value of a shape counts"


def test_cells_are_kept_by_place_and_precision(tmp_path: Path) -> None:
    place = place_of(get_backend("onnxruntime"), 1)
    assert place["backend"].startswith("onnxruntime ")
    table = KeptCells(place, "fp32", tmp_path)
    assert table.all() == {}
    table.keep({"one": {"ms": 1.0, "measured": "then"}})
    table.keep({"two": {"ms": 2.0, "measured": "now"}, "one": {"ms": 3.0, "measured": "now"}})
    assert {name: cell["ms"] for name, cell in table.all().items()} == {"one": 3.0, "two": 2.0}
    assert KeptCells(place, "x86-vnni", tmp_path).all() == {}
    assert KeptCells({**place, "threads": 2}, "fp32", tmp_path).all() == {}


def test_lengths_are_kept_for_the_groups_that_they_are_of(tmp_path: Path) -> None:
    kept, lost = KeptLengths(tmp_path), {"a": {("x", 1): 4, ("x", 2): 1}, "b": {}}
    assert kept.find(KEY, AB) is None
    kept.keep(KEY, lost)
    assert KeptLengths(tmp_path).find(KEY, ("b", "a")) == lost
    assert kept.find(KEY, ("a",)) is None
    assert kept.find({**KEY, "structure": "b"}, AB) is None
    (path,) = tmp_path.rglob("*.json")
    path.write_bytes(path.read_bytes()[:20])
    assert kept.find(KEY, AB) is None
