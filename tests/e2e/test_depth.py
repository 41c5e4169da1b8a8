"""Pruning to a time with whole blocks, on a network that cannot be fast enough with all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from edgevision.models.checkpoint import load_checkpoint
from edgevision.models.traced import TracedNetwork
from edgevision.pipeline import CompressResult, compress, timing
from tests.e2e.small import RECIPE

FACTORY = '''
from torch import nn


class Slow(nn.Module):
    """Takes nearly all the time, and changes nothing."""

    def __init__(self):
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(16, 128, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(128, 128, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(128, 16, 3, padding=1),
        )

    def forward(self, x):
        return x + 0.0 * self.branch(x)


def make(num_classes, in_channels, image_size):
    return nn.Sequential(
        nn.Conv2d(in_channels, 16, 3, padding=1),
        nn.ReLU(),
        Slow(),
        nn.Conv2d(16, 64, 3, 2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, num_classes),
    )
'''


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Fewer and shorter measurements than deserve trust, and none kept from other runs."""
    monkeypatch.setenv("EDGEVISION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(timing, "NETWORKS", 16)
    monkeypatch.setattr(timing, "SECONDS", 2.0)
    monkeypatch.setattr(timing, "CONFIRM_SECONDS", 0.5)


def run(model: str, data: Path, out: Path, **prune: Any) -> CompressResult:
    overrides = {**RECIPE, "model": model, "prune": {"fine_tune": {"epochs": 1}, **prune}}
    return compress(model, data=str(data), overrides=overrides, out=out)


@pytest.mark.slow
def test_a_block_that_takes_the_time_and_gives_nothing_goes(
    tmp_path: Path, image_folder: Path
) -> None:
    file = tmp_path / "net.py"
    file.write_text(FACTORY)
    # INT8 gives a part of that speed. No group may lose more than a fifth: with the block the
    # rest is out of reach.
    fields: dict[str, Any] = {"speedup": 30.0, "max_ratio": 0.2, "depth": True}
    result = run(f"{file}:make", image_folder, tmp_path / "out", **fields)
    told = result.stages["shorten"].json("blocks.json")
    (row,) = told["blocks"]
    assert (row["name"], row["gone"], told["gone"]) == ("2", True, ["2"])
    assert row["loss"] < 1e-4
    assert told["loss_before"] is None
    whole = result.stages["profile"].json("latency.json")
    shorter = result.stages["shorten"].json("latency.json")
    assert "2.branch.2" in whole["groups"]
    assert shorter["groups"] == [name for name in whole["groups"] if not name.startswith("2.")]
    assert shorter["milliseconds"][0] < whole["milliseconds"][0] - 0.5 * row["milliseconds"]
    (chosen,) = result.stages["prune"].json("widths.json").values()
    assert list(chosen) == shorter["groups"]
    table = result.stages["prune"].json("table.json")
    rows = {layer["name"]: layer for layer in table["layers"]}
    assert rows["2.branch.2"]["channels_before"] == [128, 128]
    assert rows["2.branch.2"]["channels_after"] == [0, 0]
    assert table["macs_after"] < 0.1 * table["macs_before"]
    assert "blocks removed" in (result.bundle / "report.html").read_text()
    by_name = {row["name"]: row for row in result.figures["rows"]}
    assert by_name[result.verdict.shipped]["speed"]["speedup"] > 5

    again = run(f"{file}:make", image_folder, tmp_path / "out", **fields)
    assert all(again.stages[name].reused for name in ("profile", "shorten", "prune"))
    folder = result.stages["prune"].path("checkpoint")
    rebuilt, card = load_checkpoint(folder)
    assert card.structure is not None
    assert card.structure["removed"] == ["2"]
    file.unlink()
    traced, _ = load_checkpoint(folder)
    assert isinstance(traced, TracedNetwork)
    images = torch.randn(3, 3, 28, 28)
    with torch.no_grad():
        assert torch.equal(traced(images), rebuilt(images))


@pytest.mark.slow
def test_where_no_block_may_go_it_is_the_pruning_without_depth(
    tmp_path: Path, image_folder: Path
) -> None:
    plain = run("plain-cnn", image_folder, tmp_path, speedup=1.2)
    assert "shorten" not in plain.stages
    looked = run("plain-cnn", image_folder, tmp_path, speedup=1.2, depth=True)
    told = looked.stages["shorten"].json("blocks.json")
    assert told == {"blocks": [], "gone": [], "loss_before": None, "loss_after": None}
    assert looked.stages["prune"].key == plain.stages["prune"].key
    assert looked.stages["prune"].reused
