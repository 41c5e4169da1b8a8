"""Blocks go where that loses less than narrowing alone, and only there."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from networks import lively
from torch import nn

from edgevision.models.cifar_resnet import CifarResNet
from edgevision.pruning import PruneConfig, count
from edgevision.pruning.allowed import allowed_widths
from edgevision.pruning.blocks import Block, find_blocks
from edgevision.pruning.depth import DepthChoice, choose_blocks, search_blocks
from edgevision.pruning.timed import TimeGoal

IMAGE = (1, 3, 16, 16)
IMAGES = torch.randn(128, 3, 16, 16, generator=torch.Generator().manual_seed(1))
CONFIG = PruneConfig(speedup=2.0, depth=True)


class Costs:
    """Time as a network's MACs in millions, in all and in a block."""

    def __init__(self, module: Any, share: float) -> None:
        found = allowed_widths(
            module, example_shape=IMAGE, config=CONFIG, ignored=[module.head], round_to=2
        )
        self.cost, self.groups = found.cost, tuple(found.allowed)
        self.layer_macs = count(module, torch.zeros(IMAGE)).layer_macs
        whole = sum(self.layer_macs.values()) / 1e6
        self.goal = TimeGoal(share * whole, self.groups, self.milliseconds)

    def milliseconds(self, rows: Any) -> Any:
        return np.array([self.cost.macs(self.kept(row)) for row in rows]) / 1e6

    def time_in(self, block: Block, rows: Any) -> Any:
        return np.array([sum(self.of_layers(block, self.kept(row))) for row in rows]) / 1e6

    def kept(self, row: Any) -> dict[str, int]:
        return dict(zip(self.groups, row.tolist(), strict=True))

    def of_layers(self, block: Block, kept: dict[str, int]) -> Iterator[float]:
        for name, width in self.cost.layer_widths(kept).items():
            if name in block.layers:
                share = [side[0] / side[1] for side in width if side is not None]
                yield self.layer_macs[name] * float(np.prod(share))


def network(useless: str = "") -> Any:
    """A network that is sure of itself; the block ``useless`` changes nothing, at full cost."""
    torch.manual_seed(0)
    module: Any = lively(CifarResNet(14, 5, 3)).eval()
    if useless:
        nn.init.zeros_(module.get_submodule(f"{useless}.bn2").weight)
        nn.init.zeros_(module.get_submodule(f"{useless}.bn2").bias)
    seen: list[torch.Tensor] = []
    hook = module.head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        copy.deepcopy(module).train()(IMAGES)
        hook.remove()
        nn.init.normal_(module.head.weight, std=float(0.3 / seen[0].std(0).mean()))
        module.head.bias.copy_(-module.head.weight @ seen[0].mean(0))
    return module


def chosen(module: Any, share: float, blocks: Sequence[Block] | None = None) -> DepthChoice:
    """The choice on images that are what the network says they are."""
    teacher = copy.deepcopy(module).train()
    with torch.no_grad():
        data = [(IMAGES, teacher(IMAGES).argmax(1))]
    costs = Costs(module, share)
    return choose_blocks(
        module,
        find_blocks(module, torch.zeros(IMAGE), {"head"}) if blocks is None else blocks,
        costs.goal,
        costs.time_in,
        example_shape=IMAGE,
        config=CONFIG,
        ignored=[module.head],
        round_to=2,
        batches=lambda: iter(data),
        loss=nn.functional.cross_entropy,
    )


def test_a_block_that_does_nothing_goes() -> None:
    found = chosen(network("blocks.3"), 0.8)
    assert found.gone == ["blocks.3"]
    rows = {row.name: row for row in found.rows}
    assert list(rows) == ["blocks.0", "blocks.1", "blocks.3", "blocks.5"]
    assert rows["blocks.3"].loss == 0.0 < rows["blocks.5"].loss
    # Two convolutions of 32 channels at 8x8 positions.
    assert rows["blocks.3"].milliseconds == pytest.approx(2 * 32 * 32 * 9 * 64 / 1e6)
    assert found.loss_after is not None
    assert found.loss_before is not None
    assert found.loss_after < 0.8 * found.loss_before


def test_none_goes_where_each_matters() -> None:
    found = chosen(network(), 0.8)
    assert found.gone == []
    assert found.loss_after == found.loss_before


def test_a_time_beyond_the_narrowest_widths_is_reached_without_a_block() -> None:
    module = network("blocks.1")
    narrowest = Costs(module, 1.0)
    least = allowed_widths(
        module, example_shape=IMAGE, config=CONFIG, ignored=[module.head], round_to=2
    ).allowed
    row = np.array([[widths[-1] for widths in least.values()]])
    whole = sum(narrowest.layer_macs.values()) / 1e6
    found = chosen(module, 0.99 * float(narrowest.milliseconds(row)[0]) / whole)
    assert found.loss_before is None
    assert found.gone
    assert found.loss_after is not None


def test_without_blocks_nothing_is_asked() -> None:
    assert chosen(network(), 0.8, blocks=()).gone == []


def test_depth_goes_with_a_time_only() -> None:
    with pytest.raises(ValueError, match="depth goes with speedup or latency_ms"):
        PruneConfig(macs=0.5, depth=True)
    assert not PruneConfig(latency_ms=1.0).depth


A, B, C = (Block(name, frozenset({f"{name}.conv"}), (1, 8, 4, 4)) for name in "abc")
INNER = Block("a.inner", frozenset({"a.conv"}), (1, 8, 4, 4))
ALONE = {A: 0.1, B: 0.2, C: 0.3, INNER: 0.1}


def search(
    blocks: Sequence[Block],
    saved: dict[Block, float],
    surprise: float = 0.0,
    start: float = 1.0,
) -> list[str]:
    """Blocks that go where each takes ``saved`` off the loss of narrowing.

    Two together lose ``surprise`` more than each alone.
    """
    gone, before, after = search_blocks(
        blocks,
        [ALONE[block] for block in blocks],
        [1.0] * len(blocks),
        lambda found: sum(ALONE[b] for b in found) + surprise * (len(found) - 1),
        lambda found: start - sum(saved[b] for b in found),
    )
    assert before == start
    assert after <= before
    return [block.name for block in gone]


def test_blocks_go_one_by_one_while_each_wins_by_the_margin() -> None:
    assert search([A, B, C], {A: 0.4, B: 0.5, C: 0.35}) == ["a", "b"]
    assert search([A, B, C], {A: 0.15, B: 0.2, C: 0.3}) == []


def test_those_that_lose_least_for_their_time_are_tried() -> None:
    blocks = [Block(str(n), frozenset({f"{n}.conv"}), (1, 8, 4, 4)) for n in range(9)]
    asked: list[str] = []

    def narrowing(gone: Sequence[Block]) -> float:
        asked.extend(block.name for block in gone)
        return 1.0

    times = [1.0, 2, 9, 8, 1, 7, 1, 6, 1]
    search_blocks(blocks, [0.1] * 9, times, lambda gone: 0.0, narrowing)
    assert asked == ["2", "3", "5", "7"]


def test_what_loses_more_together_than_alone_stays() -> None:
    assert search([A, B], {A: 0.4, B: 0.5}, surprise=0.5) == ["a"]


def test_of_two_that_overlap_one_goes() -> None:
    assert search([A, INNER], {A: 0.5, INNER: 0.4}) == ["a"]
    assert search([INNER, A], {A: 0.4, INNER: 0.5}) == ["a.inner"]


def test_out_of_reach_whatever_goes() -> None:
    assert search([A, B], {A: 0.4, B: 0.5}, start=float("inf")) == []
