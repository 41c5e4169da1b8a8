"""Whatever a network is built of, what is pruned runs, adds up, and computes what it should."""

from __future__ import annotations

import copy

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from networks import KINDS, Net, masked, net
from torch import nn

from edgevision.pruning import PruneConfig, count, prune, rebuild
from edgevision.pruning.by_groups import is_by_groups
from edgevision.pruning.graph import Graph, find_groups, remove
from edgevision.pruning.sensitivity import silenced
from edgevision.pruning.widths import Prunable

blocks = st.lists(
    st.tuples(st.sampled_from(KINDS), st.sampled_from([8, 16, 24, 32])), min_size=1, max_size=5
)


# Shrinking prunes hundreds of networks more; the failing one is small enough to read.
QUICK = settings(
    max_examples=25,
    derandomize=True,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow],
)


def layers_of_uneven_parts(graph: Graph, round_to: int) -> set[str]:
    """Layers of groups that have no width at which multiples stay multiples everywhere."""
    found: set[str] = set()
    for group in graph.groups:
        parts = []  # channels that a unit takes, and whether the layer's width is a multiple
        for slot in group.slots:
            if isinstance(slot.module, nn.Conv2d | nn.Linear):
                channels, width = int(group.layer_units(slot)[0]), slot.width
                if is_by_groups(slot.module):
                    channels, width = channels * slot.module.groups // width, slot.module.groups
                parts.append((channels, width % round_to == 0))
        units = len(group.units)
        fits = any(
            all((units - kept if whole else kept) * n % round_to == 0 for n, whole in parts)
            for kept in range(1, units)
        )
        if not fits:
            found |= {slot.name for slot in group.slots}
    return found


@QUICK
@given(
    blocks=blocks,
    ratio=st.floats(0.1, 0.5),
    round_to=st.sampled_from([1, 2, 4, 8]),
    channels=st.sampled_from([1, 3]),
    global_ranking=st.booleans(),
    seed=st.integers(0, 99),
)
def test_random_networks(
    blocks: list[tuple[str, int]],
    ratio: float,
    round_to: int,
    channels: int,
    global_ranking: bool,
    seed: int,
) -> None:
    blocks = [*blocks, ("conv", 32)]  # wide enough that something can go
    module = net(*blocks, channels=channels, seed=seed).eval()
    shape = (1, channels, 12, 12)
    result = prune(
        module,
        example_shape=shape,
        config=PruneConfig(
            pruning_ratio=ratio, importance="random", global_ranking=global_ranking, seed=seed
        ),
        ignored=[module.head],
        round_to=round_to,
    )
    images = torch.randn(2, channels, 12, 12)
    with torch.no_grad():
        logits = result.module(images)
    assert logits.shape == (2, 5)
    recount = count(result.module, torch.zeros(shape))
    assert sum(row.macs_after for row in result.table.rows) == result.macs_after == recount.macs
    assert sum(p.numel() for p in result.module.parameters()) == result.params_after
    uneven = layers_of_uneven_parts(find_groups(module, torch.zeros(shape), {"head"}), round_to)
    width = {row.name: row.channels_before[1] for row in result.table.rows}
    for group, _ in result.table.whole:
        parts = {"both": 2, "all.0": 3}.get(group.removeprefix("blocks.").partition(".")[2], 1)
        narrow = width.get(group, 0) <= round_to * parts
        # A group of a part of a concatenation ("[") is no wider than that part.
        assert group == "head" or "[" in group or narrow
    for row in result.table.rows:
        for before, after in zip(row.channels_before, row.channels_after, strict=True):
            assert after == before or (before - after > 0 and after > 0)
            if before % round_to == 0 and row.name not in uneven:
                assert after % round_to == 0
    fresh = rebuild(Net(channels, blocks), result.structure).eval()
    fresh.load_state_dict(result.module.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(fresh(images), logits)


@QUICK
@given(blocks=blocks, share=st.floats(0.1, 0.9), seed=st.integers(0, 99))
def test_pruned_equals_masked(blocks: list[tuple[str, int]], share: float, seed: int) -> None:
    module = net(*blocks, seed=seed).eval()
    example = torch.zeros(1, 3, 12, 12)
    generator = torch.Generator().manual_seed(seed)
    removals: dict[str, list[int]] = {}
    graph = find_groups(module, example, {"head"})
    for group in graph.groups:
        number = min(int(share * len(group.units)), len(group.units) - 1)
        picked = torch.randperm(len(group.units), generator=generator)[:number].tolist()
        if picked:
            channels = [int(c) for unit in picked for c in group.units[unit]]
            removals.setdefault(group.root, []).extend(channels)
    narrow = copy.deepcopy(module)
    remove(narrow, graph, removals)
    twin = masked(module, example, removals)
    images = torch.randn(2, 3, 12, 12, generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(narrow(images), twin(images), rtol=1e-3, atol=1e-5)


@QUICK
@given(blocks=blocks, share=st.floats(0.1, 0.9), seed=st.integers(0, 99))
def test_pruned_equals_silenced(blocks: list[tuple[str, int]], share: float, seed: int) -> None:
    """What the search for widths measures is what the narrow network will compute."""
    module = net(*blocks, seed=seed).eval()
    graph = find_groups(module, torch.zeros(1, 3, 12, 12), {"head"})
    group = graph.groups[seed % len(graph.groups)]
    units = len(group.units)
    order = np.random.default_rng(seed).permutation(units)
    item = Prunable(group, order, np.zeros(units), (units,), units)
    number = min(max(int(share * units), 1), units - 1)
    images = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
    with silenced(module, item, number), torch.no_grad():
        want = module(images)
    narrow = copy.deepcopy(module)
    gone = [int(channel) for unit in order[:number] for channel in group.units[unit]]
    remove(narrow, graph, {group.root: gone})
    with torch.no_grad():
        torch.testing.assert_close(narrow(images), want, rtol=1e-3, atol=1e-5)
