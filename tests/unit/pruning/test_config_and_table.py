"""Options that are refused, and the table as data and as text."""

from __future__ import annotations

import io
import json
from itertools import pairwise
from typing import Any

import pytest
import torch
from networks import Net
from pydantic import ValidationError
from rich.console import Console

from edgevision.pruning import PruneConfig, PruneResult, prune


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "exactly one target .* got none"),
        ({"macs": 0.5, "params": 0.5}, "got macs and params"),
        ({"macs": 0.0}, "greater than 0"),
        ({"macs": 1.0}, "less than 1"),
        ({"macs": 50}, "less than 1"),
        ({"macs": 0.5, "importance": "magnitud"}, "Did you mean 'magnitude'"),
        ({"pruning_ratio": 0.95}, "above max_ratio 0.9"),
        ({"macs": 0.5, "ratio": 0.5}, "Extra inputs"),
        ({"macs": 0.5, "steps": 0}, "greater than or equal to 1"),
        ({"macs": 0.5, "norm": 3}, "1 or 2"),
        ({"macs": float("nan")}, "less than 1"),
    ],
)
def test_refused_options(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PruneConfig(**fields)


def test_target_is_the_one_given() -> None:
    assert PruneConfig(macs=0.5).target == ("macs", 0.5)
    assert PruneConfig(params=0.4).target == ("params", 0.4)
    assert PruneConfig(pruning_ratio=0.3).target == ("pruning_ratio", 0.3)
    assert PruneConfig.model_validate_json(PruneConfig(macs=0.5).model_dump_json()).macs == 0.5


@pytest.fixture(scope="module")
def result() -> PruneResult:
    torch.manual_seed(0)
    module = Net(3, [("conv", 32)])
    return prune(module, example_shape=(1, 3, 8, 8), config=PruneConfig(macs=0.5), round_to=4)


def test_the_table_adds_up(result: PruneResult) -> None:
    rows = result.table.rows
    assert [row.name for row in rows] == ["blocks.0.0", "blocks.1.0", "head"]
    assert sum(row.macs_before for row in rows) == result.macs_before
    assert sum(row.macs_after for row in rows) == result.macs_after
    for before, after in pairwise(rows):
        inner = after.channels_after[0] // (4 if after.kind == "Linear" else 1)
        assert inner == before.channels_after[1]


def test_the_table_as_json_and_text(result: PruneResult) -> None:
    data = json.loads(json.dumps(result.to_dict()))
    assert data["asked"] == 0.5
    assert data["reached"] == result.reached
    assert data["layers"][1]["channels_before"] == [16, 32]
    assert data["whole"] == [{"group": "head", "reason": "'head' is an output of the network"}]
    console = Console(width=200, file=io.StringIO())
    console.print(result.table.render())
    text = console.file.getvalue()
    row = result.table.rows[1]
    assert f"32 → {row.channels_after[1]}" in text
    assert f"{row.macs_before:,} → {row.macs_after:,}" in text
