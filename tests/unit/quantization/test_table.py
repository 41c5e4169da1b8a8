from __future__ import annotations

import json

import numpy as np
import pytest

from edgevision.errors import ModelError, StorageError
from edgevision.quantization import CalibrationTable
from edgevision.quantization.calibrators import CALIBRATORS


@pytest.fixture
def table():
    tensors = {}
    for seed, name in enumerate(("relu_1", "add")):
        observer = CALIBRATORS.get("percentile")()
        observer.observe(np.random.default_rng(seed).normal(size=500).astype(np.float32))
        tensors[name] = observer.result()
    return CalibrationTable("percentile", {"percentile": 99.99}, 3, "a" * 64, "b" * 64, tensors)


def test_survives_a_round_trip_to_the_last_bit(table, tmp_path):
    path = tmp_path / "calibration.json"
    table.save(path)
    back = CalibrationTable.load(path)
    assert back.to_bytes() == table.to_bytes() == path.read_bytes()
    for name, value in table.tensors.items():
        assert back.tensors[name].high == value.high
        np.testing.assert_array_equal(back.tensors[name].histogram.bins, value.histogram.bins)


def test_order_of_tensors_leaves_no_trace(table):
    other = CalibrationTable(**{**vars(table), "tensors": dict(reversed(table.tensors.items()))})
    assert other.to_bytes() == table.to_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.update(version=9), "version 1, got 9"),
        (lambda raw: raw.pop("tensors"), "tensors"),
        (lambda raw: raw.update(images="many"), "many"),
        (lambda raw: raw["tensors"]["add"].update(low=9.0), "minimum <= low"),
        (lambda raw: raw["tensors"]["add"].update(amax=-1.0), "amax"),
        (lambda raw: raw["tensors"]["add"].update(count=7), "does not hold 7"),
        (lambda raw: raw["tensors"]["add"].pop("high"), "high"),
        (lambda raw: raw["tensors"]["add"]["histogram"].update(first=4000), "out of range"),
        (lambda raw: raw["tensors"]["add"]["histogram"].update(counts="1 -2"), "out of range"),
        (lambda raw: raw.update(tensors=[]), "damaged"),
    ],
)
def test_damaged_tables_are_refused(table, tmp_path, change, message):
    raw = json.loads(table.to_bytes())
    change(raw)
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(raw))
    with pytest.raises(ModelError, match=message):
        CalibrationTable.load(path)


def test_nan_in_a_table_is_refused(table, tmp_path):
    raw = json.loads(table.to_bytes())
    raw["tensors"]["add"]["amax"] = float("nan")
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(raw))
    with pytest.raises(ModelError, match="finite"):
        CalibrationTable.load(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null"])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "calibration.json"
    path.write_bytes(content)
    with pytest.raises(ModelError):
        CalibrationTable.load(path)


def test_missing_and_unwritable_files(table, tmp_path):
    with pytest.raises(ModelError, match="No calibration table"):
        CalibrationTable.load(tmp_path / "none.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        table.save(tmp_path / "file" / "table.json")
