"""Pruning to a time: the choice, its confirmation by measurement, and what comes out."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from networks import Net, Private, Transformer, lively, masked
from torch import nn

from edgevision.errors import ModelError, UsageError
from edgevision.pruning import PruneConfig, count, prune
from edgevision.pruning.allowed import allowed_widths
from edgevision.pruning.graph import find_groups, remove
from edgevision.pruning.search import LossScale, Options
from edgevision.pruning.sensitivity import measured_losses, silenced
from edgevision.pruning.timed import TimeGoal, choose_within
from edgevision.pruning.widths import prunable

IMAGE = (1, 3, 16, 16)
CONFIG = PruneConfig(speedup=2.0)


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return lively(Net(3, (("residual", 8), ("conv", 24), ("excite", 24), ("concat", 8)))).eval()


def heads(module: nn.Module) -> list[nn.Module]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1:]


def batches() -> Any:
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        yield (
            torch.randn(16, 3, 16, 16, generator=generator),
            torch.randint(0, 5, (16,), generator=generator),
        )


def goal_of(module: nn.Module, share: float, **fields: Any) -> TimeGoal:
    """A time that is the network's MACs, of which ``share`` may stay."""
    found = allowed_widths(
        module, example_shape=IMAGE, config=CONFIG, ignored=heads(module), round_to=2
    )
    cost, groups = found.cost, tuple(found.allowed)

    def times(rows: Any) -> Any:
        return np.array([cost.macs(dict(zip(groups, r, strict=True))) for r in rows.tolist()]) / 1e6

    whole = count(module, torch.zeros(IMAGE)).macs / 1e6
    return TimeGoal(share * whole, groups, times, **fields)


def run(module: nn.Module, goal: TimeGoal | None, **fields: Any) -> Any:
    return prune(
        module,
        example_shape=IMAGE,
        config=PruneConfig(**{"speedup": 2.0, **fields}),
        ignored=heads(module),
        round_to=2,
        batches=batches,
        loss=nn.functional.cross_entropy,
        time=goal,
    )


@pytest.mark.parametrize("steps", [1, 3])
def test_the_network_takes_the_time_that_was_asked_for(net: nn.Module, steps: int) -> None:
    result = run(net, goal_of(net, 0.5), steps=steps)
    assert 0.42 <= result.macs_after / result.macs_before <= 0.5
    assert result.reached == pytest.approx(result.macs_before / result.macs_after, rel=0.02)
    assert result.module(torch.zeros(2, 3, 16, 16)).shape == (2, 5)


def test_what_was_chosen_before_is_taken_again(net: nn.Module) -> None:
    first, again = goal_of(net, 0.5), goal_of(net, 0.5)
    result = run(net, first, steps=2)
    again.chosen.update(first.chosen)
    object.__setattr__(again, "milliseconds", lambda rows: np.full(len(rows), 1.0))
    assert run(net, again, steps=2).structure == result.structure
    assert len(first.chosen) == 2


def test_a_time_without_a_goal_or_the_other_way_round(net: nn.Module) -> None:
    with pytest.raises(UsageError, match="goes with a target"):
        run(net, None)
    with pytest.raises(UsageError, match="goes with a target"):
        run(net, goal_of(net, 0.5), speedup=None, macs=0.5)


def test_a_time_that_no_width_reaches(net: nn.Module) -> None:
    with pytest.raises(ModelError, match="narrowest network"):
        run(net, goal_of(net, 0.001))


def test_out_of_reach_the_narrowest_may_be_asked_for(net: nn.Module) -> None:
    goal = goal_of(net, 0.001, or_narrowest=True)
    run(net, goal)
    allowed = allowed_widths(
        net, example_shape=IMAGE, config=CONFIG, ignored=heads(net), round_to=2
    ).allowed
    (chosen,) = goal.chosen.values()
    assert chosen == {name: allowed[name][-1] for name in chosen}


class Square(nn.Module):
    """As many tokens as channels: either axis of the positions could be that of the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.position = nn.Parameter(torch.randn(1, 16, 16))
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.position
        return self.head(torch.relu(x).mean(1))


@pytest.mark.parametrize("kind", ["channels", "heads"])
def test_a_group_of_which_one_unit_is_left_is_carried_through_the_steps(kind: str) -> None:
    torch.manual_seed(0)
    module = Square().eval() if kind == "channels" else Transformer(Private(32, 4)).eval()
    graph = find_groups(module, torch.zeros(IMAGE), {"head"})
    groups = tuple(group.name for group in graph.groups)
    shrinks = groups.index("patches" if kind == "channels" else "attention.qkv")

    def times(rows: Any) -> Any:  # only one group takes time
        return rows[:, shrinks].astype(float)

    goal = TimeGoal(0.01, groups, times, or_narrowest=True)
    result = prune(
        module,
        example_shape=IMAGE,
        config=PruneConfig(speedup=100.0, steps=3, max_ratio=0.99),
        ignored=[module.head],
        batches=batches,
        loss=nn.functional.cross_entropy,
        time=goal,
    )
    if kind == "channels":
        assert result.module.patches.out_channels == 1
    else:
        assert result.module.attention._heads == 1
        assert result.module.attention.qkv.out_features == 24
    assert len(goal.chosen) == 3
    assert result.module(torch.zeros(2, 3, 16, 16)).shape == (2, 5)


def candidates_of(net: nn.Module) -> list[Any]:
    from edgevision.pruning.graph import find_groups

    ignored = {name for name, layer in net.named_modules() if layer in heads(net)}
    found = []
    for group in find_groups(net, torch.zeros(IMAGE), ignored).groups:
        scores = torch.arange(group.channels, dtype=torch.float32) + 1
        item = prunable(group, scores, round_to=2, max_ratio=0.9, original=len(group.units))
        if item is not None:
            found.append(item)
    return found


def test_a_wrong_prediction_is_made_up_for_by_measuring(net: nn.Module) -> None:
    """Networks take 1.3 times as long as predicted: the choice is narrower for it."""
    items = candidates_of(net)
    options = [Options(i.allowed, tuple(float(i.allowed[0] - w) for w in i.allowed)) for i in items]
    present = {item.group.name: len(item.group.units) for item in items}
    goal = goal_of(net, 0.5)
    truth = TimeGoal(
        goal.limit_ms, goal.groups, goal.milliseconds, measure=lambda kept: 1.3 * goal.of(kept)
    )
    chosen = choose_within(truth, goal.limit_ms, items, options, present)
    assert 1.3 * goal.of({**present, **chosen}) == pytest.approx(goal.limit_ms, rel=0.05)
    trusting = choose_within(goal, goal.limit_ms, items, options, present)
    assert goal.of({**present, **trusting}) == pytest.approx(goal.limit_ms, rel=0.05)


def test_a_choice_that_loses_everything_is_warned_of(
    net: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    items = candidates_of(net)
    present = {item.group.name: len(item.group.units) for item in items}
    goal = goal_of(net, 0.5)

    def told(each: float, whole: float = 0.25, blind: float = 1.6) -> list[str]:
        """What is said where every group loses ``each`` from its second width on."""
        caplog.clear()
        scale = LossScale(whole, blind)
        losses = [(0.0, *[each] * (len(item.allowed) - 1)) for item in items]
        options = [
            Options(item.allowed, values, scale) for item, values in zip(items, losses, strict=True)
        ]
        chosen = choose_within(goal, goal.limit_ms, items, options, present)
        narrowed = sum(chosen[item.group.name] < present[item.group.name] for item in items)
        assert narrowed >= 1
        if caplog.messages:
            assert f"from {whole:.3g} to {whole + each * narrowed:.3g}" in caplog.messages[0]
        return caplog.messages

    (line,) = told(2.0)
    assert f"Narrowed to {goal.limit_ms:.3g} ms" in line
    assert "a guess has 1.6" in line
    for way in ("less speed", "prune.fine_tune.epochs", "prune.steps"):
        assert way in line
    assert told(0.01) == []
    assert told(2.0, blind=float("inf")) == []
    assert told(2.0, whole=3.0) == [], "one that knows nothing yet has nothing to lose"


def test_a_silenced_group_is_one_that_nobody_reads(net: nn.Module) -> None:
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    before = net(images)
    for item in candidates_of(net):
        gone = 4
        channels = [int(c) for unit in item.order[:gone] for c in item.group.units[unit]]
        if item.group.name != item.group.root:
            continue
        twin = masked(net, torch.zeros(IMAGE), {item.group.root: channels})
        with silenced(net, item, gone):
            assert torch.allclose(net(images), twin(images), atol=1e-5), item.group.name
    assert torch.equal(net(images), before), "weights came back changed"


def test_the_axis_of_a_parameter_that_is_silenced_is_the_one_that_is_cut() -> None:
    torch.manual_seed(0)
    module = Square().eval()
    graph = find_groups(module, torch.zeros(IMAGE), {"head"})
    (group,) = graph.groups
    item = prunable(group, torch.rand(16), round_to=1, max_ratio=0.9, original=16)
    narrow = copy.deepcopy(module)
    remove(narrow, graph, {group.root: [int(c) for c in item.order[:6]]})
    images = torch.randn(2, 3, 16, 16)
    with silenced(module, item, 6), torch.no_grad():
        assert torch.allclose(module(images), narrow(images), atol=1e-5)


def test_losses_grow_with_what_leaves_and_nothing_changes(net: nn.Module) -> None:
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    told: list[tuple[int, int]] = []
    found = measured_losses(
        net,
        candidates_of(net),
        batches,
        nn.functional.cross_entropy,
        2,
        progress=lambda phase, done, total: told.append((done, total)),
    )
    seen = torch.cat([targets for _, targets in list(batches())[:2]])
    guess = nn.functional.cross_entropy(torch.zeros(len(seen), 5), seen)
    for options in found:
        assert options.losses[0] == 0
        assert options.scale is not None
        assert options.scale.blind == pytest.approx(float(guess))
        assert options.scale.whole != pytest.approx(float(guess))
        assert list(options.losses) == sorted(options.losses)
        assert len(set(options.losses)) == len(options.losses), "ties leave the order to chance"
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in state.items())
    assert told[-1] == (len(found), len(found))


def test_losses_need_data(net: nn.Module) -> None:
    with pytest.raises(UsageError, match="training data"):
        measured_losses(net, candidates_of(net), None, None, 2)
    with pytest.raises(ModelError, match="training data is empty"):
        measured_losses(net, candidates_of(net), lambda: iter(()), nn.functional.cross_entropy, 2)
