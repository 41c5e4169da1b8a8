"""Pruning real networks: the target is met, the network runs, nothing else is touched."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from networks import net
from torch import nn

from edgevision.errors import ModelError, UsageError
from edgevision.models import create
from edgevision.pruning import PruneConfig, PruneResult, count, prune, rebuild
from edgevision.pruning.importance import IMPORTANCES

IMAGE = (1, 3, 16, 16)


def widths(module: nn.Module) -> list[int]:
    """Inputs and outputs of every layer, but those at the image and the head's classes."""
    found = []
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            found += [layer.in_channels, layer.out_channels]
        elif isinstance(layer, nn.Linear):
            found += [layer.in_features]
    return found[1:]


def batches() -> Any:
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        yield (
            torch.randn(4, 3, 16, 16, generator=generator),
            torch.randint(0, 5, (4,), generator=generator),
        )


def run(module: nn.Module, shape: tuple[int, ...] = IMAGE, **fields: Any) -> PruneResult:
    round_to = fields.pop("round_to", 1)
    head = [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1:]
    return prune(
        module,
        example_shape=shape,
        config=PruneConfig(**fields),
        ignored=head,
        round_to=round_to,
        batches=batches,
        loss=nn.functional.cross_entropy,
    )


@pytest.mark.parametrize("importance", IMPORTANCES.names())
@pytest.mark.parametrize("global_ranking", [False, True])
def test_every_importance_meets_the_target(importance: str, global_ranking: bool) -> None:
    module = net(("conv", 32), ("residual", 0), ("depthwise", 48), ("conv", 64))
    result = run(module, macs=0.5, importance=importance, global_ranking=global_ranking)
    assert 0.5 <= result.reached < 0.53
    recount = count(result.module, torch.zeros(IMAGE))
    assert (recount.macs, recount.params) == (result.macs_after, result.params_after)
    assert result.reached == 1 - result.macs_after / result.macs_before


@pytest.mark.parametrize(
    ("target", "least"), [("macs", 0.3), ("params", 0.3), ("pruning_ratio", 0.25)]
)
@pytest.mark.parametrize("round_to", [1, 4, 8])
@pytest.mark.parametrize("global_ranking", [False, True])
def test_targets_and_channel_multiples(
    target: str, least: float, round_to: int, global_ranking: bool
) -> None:
    module = net(("conv", 32), ("gated", 32), ("concat", 16), ("conv", 64))
    result = run(module, round_to=round_to, global_ranking=global_ranking, **{target: least})
    assert result.target == target
    # An even ratio goes to the nearest multiple; every other target is reached at least.
    assert result.reached >= least - (0.05 if target == "pruning_ratio" else 0)
    assert result.reached < least + 0.02 * round_to
    assert all(width % round_to == 0 for width in widths(result.module))


def test_even_ratio_is_the_ratio_of_each_layer() -> None:
    result = run(net(("conv", 32), ("conv", 64)), pruning_ratio=0.5, round_to=8)
    outs = [row.channels_after[1] for row in result.table.rows]
    assert outs == [8, 16, 32, 5]
    assert result.reached == 0.5


def test_max_ratio_bounds_every_group() -> None:
    result = run(net(("conv", 32), ("conv", 64)), macs=0.6, max_ratio=0.4, global_ranking=True)
    for row in result.table.rows[:-1]:
        assert row.channels_after[1] >= 0.6 * row.channels_before[1]


def test_the_given_module_is_left_alone_and_the_copy_keeps_modes_and_frozen_weights() -> None:
    module = net(("conv", 32), ("conv", 32))
    module.train()
    module.blocks[1].eval()
    frozen = module.blocks[0][0].weight.requires_grad_(False)
    state = copy.deepcopy(module.state_dict())
    result = run(module, macs=0.5, importance="taylor", steps=2)
    assert all(torch.equal(state[name], now) for name, now in module.state_dict().items())
    assert not frozen.requires_grad
    assert all(p.grad is None for p in module.parameters())
    assert not result.module.blocks[0][0].weight.requires_grad
    assert result.module.blocks[0][0].out_channels < 16
    assert result.module.blocks[2][0].weight.requires_grad
    modes = {name: layer.training for name, layer in module.named_modules()}
    assert {name: layer.training for name, layer in result.module.named_modules()} == modes


def test_head_and_ignored_layers_stay_whole_with_the_reason() -> None:
    result = run(net(("conv", 32), ("conv", 32)), macs=0.3, ignored_layers=["blocks.1*"])
    rows = {row.name: row for row in result.table.rows}
    assert rows["head"].channels_after[1] == 5
    assert rows["blocks.1.0"].channels_after[1] == 32
    assert rows["blocks.0.0"].channels_after[1] < 16
    assert dict(result.table.whole) == {
        "head": "'head' is ignored",
        "blocks.1.0": "'blocks.1.0' is ignored",
    }


def test_outputs_stay_whole_without_being_told() -> None:
    result = prune(net(("conv", 32)), example_shape=IMAGE, config=PruneConfig(macs=0.3))
    assert result.module(torch.zeros(2, 3, 16, 16)).shape == (2, 5)
    assert dict(result.table.whole) == {"head": "'head' is an output of the network"}


def test_steps_call_back_and_rank_anew() -> None:
    seen = []

    def after_step(narrow: nn.Module, step: int, steps: int) -> None:
        assert narrow.training
        seen.append((step, steps, count(narrow.eval(), torch.zeros(IMAGE)).macs))
        narrow.train()
        # Fine-tuning changes weights: the least important channel of now must leave next.
        with torch.no_grad():
            for parameter in narrow.parameters():
                parameter.add_(0.01)

    module = net(("conv", 32), ("conv", 64)).train()
    result = prune(
        module,
        example_shape=IMAGE,
        config=PruneConfig(macs=0.6, steps=3),
        ignored=[module.head],
        after_step=after_step,
    )
    removed = [1 - macs / result.macs_before for _, _, macs in seen]
    assert [(step, steps) for step, steps, _ in seen] == [(1, 3), (2, 3), (3, 3)]
    assert all(0 <= got - want < 0.04 for got, want in zip(removed, (0.2, 0.4, 0.6), strict=True))


def test_after_step_that_changes_widths_is_refused() -> None:
    def after_step(narrow: nn.Module, step: int, steps: int) -> None:
        narrow.head = nn.Linear(narrow.head.in_features, 7)

    module = net(("conv", 32))
    with pytest.raises(ModelError, match=r"Expected outputs of shape \[\(1, 5\), \(2, 5\)\]"):
        prune(module, example_shape=IMAGE, config=PruneConfig(macs=0.3), after_step=after_step)


def test_zeroed_channels_go_first_and_cost_nothing() -> None:
    module = net(("conv", 32), ("residual", 0), ("conv", 64))
    dead = {"blocks.1": range(3, 19), "blocks.2.first": range(0, 16), "blocks.3": range(20, 52)}
    with torch.no_grad():
        for name, channels in dead.items():
            conv, norm = module.get_submodule(name)[:2]
            conv.weight[list(channels)] = 0
            norm.weight[list(channels)] = 0
            norm.bias[list(channels)] = 0
        # What a residual carries is dead only where both branches are.
        conv, norm = module.get_submodule("blocks.2.second")
        for tensor in (conv.weight, conv.bias, norm.weight, norm.bias):
            tensor[list(dead["blocks.1"])] = 0
        # What nobody writes must not count as read.
        module.get_submodule("blocks.2.first.0").weight[:, list(dead["blocks.1"])] = 0
        module.get_submodule("blocks.2.second.0").weight[:, list(dead["blocks.2.first"])] = 0
        module.get_submodule("blocks.3.0").weight[:, list(dead["blocks.1"])] = 0
        module.head.weight.view(5, 64, 4)[:, list(dead["blocks.3"])] = 0
    result = run(module, pruning_ratio=0.5, ignored_layers=["blocks.0"])
    images = torch.randn(8, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(
            result.module.eval()(images), module.eval()(images), rtol=1e-4, atol=1e-5
        )
    assert result.module.blocks[1][0].out_channels == 16


def test_a_grouped_convolution_within_a_concatenation_keeps_equal_blocks() -> None:
    module = net(("grouped", 16), ("concat", 32), ("residual", 0))
    result = run(module, pruning_ratio=0.5, round_to=4)
    assert result.module.blocks[2][0].out_channels == 8
    assert result.module.blocks[2][0].groups == 4
    assert [group for group, _ in result.table.whole] == ["head"]


def test_a_sum_over_a_concatenation_keeps_the_multiple_in_each_part() -> None:
    module = net(("concat", 32), ("residual", 0), ("conv", 24))
    result = run(module, macs=0.4, round_to=8, global_ranking=True)
    outs = {row.name: row.channels_after[1] for row in result.table.rows}
    assert outs["blocks.2.second.0"] == outs["blocks.0.0"] + outs["blocks.1.grow.0"] < 48
    assert all(width % 8 == 0 for width in widths(result.module))


@pytest.mark.parametrize(
    ("reference", "size"),
    [
        ("plain-cnn", 32),
        ("cifar-resnet8", 32),
        ("cifar-resnet20", 32),
        ("fastnet", 32),
        ("torchvision:resnet18", 64),
        ("torchvision:mobilenet_v2", 64),
        ("torchvision:resnext50_32x4d", 32),
        ("timm:mobilenetv3_small_100", 64),
        pytest.param("torchvision:densenet121", 32, marks=pytest.mark.slow),
        pytest.param("timm:mixnet_s", 64, marks=pytest.mark.slow),
        pytest.param("timm:res2net50_26w_4s", 64, marks=pytest.mark.slow),
        pytest.param("timm:fastvit_t8", 64, marks=pytest.mark.slow),
        pytest.param("timm:convnext_atto", 64, marks=pytest.mark.slow),
        pytest.param("timm:vit_tiny_patch16_224", 224, marks=pytest.mark.slow),
    ],
)
def test_known_networks(reference: str, size: int) -> None:
    module = create(reference, num_classes=10, in_channels=3, image_size=(size, size))
    head = [m for m in module.modules() if getattr(m, "out_features", 0) == 10]
    result = prune(
        module,
        example_shape=(1, 3, size, size),
        config=PruneConfig(macs=0.5, global_ranking=True),
        ignored=head,
        round_to=8,
    )
    assert 0.5 <= result.reached < 0.52
    assert result.module(torch.zeros(2, 3, size, size)).shape == (2, 10)


class Shared(nn.Module):
    """One convolution used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.twice = nn.Conv2d(16, 16, 3, padding=1)
        self.last = nn.Conv2d(16, 32, 3)
        self.head = nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.twice(torch.relu(self.twice(torch.relu(self.stem(x))))))
        return self.head(torch.relu(self.last(x)).mean((2, 3)))


class Hidden(Shared):
    """Cuts the graph: what lies before the cut is traced, but its reader is not seen."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left = torch.relu(self.stem(x))
        right = self.twice(left.detach()) + left
        return self.head(torch.relu(self.last(right)).mean((2, 3)))


class FixedBuffer(Shared):
    """Scales channels by a buffer, which has no place in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.linspace(1, 2, 16).view(1, 16, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.twice(self.stem(x) * self.scale))
        return self.head(torch.relu(self.last(x)).mean((2, 3)))


class LayerScale(Shared):
    """Scales channels by a parameter of its own, which is narrowed with them."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.linspace(1, 2, 16).view(16, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stem = self.stem(x)
        x = torch.relu(stem + self.gamma * self.twice(stem))
        return self.head(torch.relu(self.last(x)).mean((2, 3)))


@pytest.mark.parametrize("kind", [Shared, Hidden, FixedBuffer, LayerScale])
def test_odd_networks_never_break(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    module = kind()
    result = run(module, macs=0.15, round_to=4)
    assert result.reached >= 0.15
    images = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        logits = result.module(images)
    fresh = rebuild(kind(), result.structure)
    fresh.load_state_dict(result.module.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(fresh(images), logits)


def test_a_group_that_breaks_the_forward_is_left_whole_with_the_reason() -> None:
    result = run(FixedBuffer(), macs=0.15)
    whole = dict(result.table.whole)
    assert any("the network fails without these channels" in why for why in whole.values())
    assert result.module.stem.out_channels == 16


def test_parameters_outside_layers_are_narrowed() -> None:
    torch.manual_seed(0)
    result = run(LayerScale(), macs=0.5)
    width = result.module.stem.out_channels
    assert width < 16
    assert result.module.gamma.shape == (width, 1, 1)
    assert result.structure["tensors"]["gamma"] == [width, 1, 1]


class NoGradient(Shared):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).argmax(1)


class Keeps(Shared):
    """Holds on to a tensor of the last pass, which cannot be copied."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last_seen = super().forward(x)
        return self.last_seen


def test_errors_name_the_cause_and_the_way_out() -> None:
    module = net(("conv", 32))
    with pytest.raises(ModelError, match=r"at most .*head: 'head' is ignored.*\n.*ignore fewer"):
        run(module, macs=0.9, ignored_layers=["blocks*"])
    with pytest.raises(ModelError, match="Cannot trace NoGradient"):
        run(NoGradient(), macs=0.5)
    with pytest.raises(ModelError, match=r"Net fails on an input of shape \(1, 1, 16, 16\)"):
        run(module, (1, 1, 16, 16), macs=0.5)
    with pytest.raises(ModelError, match=r"Unknown layer in ignored_layers 'blokcs.0'"):
        run(module, macs=0.5, ignored_layers=["blokcs.0"])
    with pytest.raises(UsageError, match="give batches and loss"):
        prune(module, example_shape=IMAGE, config=PruneConfig(macs=0.5, importance="taylor"))
    with pytest.raises(ModelError, match="no parameters"):
        run(nn.Flatten(), macs=0.5)
    with pytest.raises(ModelError, match="no convolution or linear layer to prune"):
        run(nn.BatchNorm2d(3), macs=0.5)
    keeps = Keeps()
    keeps(torch.zeros(IMAGE))
    with pytest.raises(ModelError, match="Cannot copy Keeps"):
        run(keeps, macs=0.5)
    with torch.no_grad():
        module.blocks[1][0].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ModelError, match="is NaN or infinite"):
        run(module, macs=0.5)


def test_taylor_refuses_empty_data_and_a_loss_that_is_not_finite() -> None:
    module = net(("conv", 32))
    config = PruneConfig(macs=0.5, importance="taylor")
    with pytest.raises(ModelError, match="training data is empty"):
        prune(
            module,
            example_shape=IMAGE,
            config=config,
            batches=lambda: iter(()),
            loss=nn.functional.cross_entropy,
        )
    with pytest.raises(ModelError, match="The loss of batch 0 is nan"):
        prune(
            module,
            example_shape=IMAGE,
            config=config,
            batches=batches,
            loss=lambda outputs, targets: outputs.sum() * float("nan"),
        )
