"""Scores against numbers by hand and against torch-pruning."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch_pruning as tp
from networks import Net, lively
from torch import nn

from edgevision.errors import UsageError
from edgevision.pruning import PruneConfig
from edgevision.pruning.graph import Group, find_groups
from edgevision.pruning.importance import IMPORTANCES
from edgevision.pruning.importance.lamp import lamp

EXAMPLE = torch.zeros(1, 3, 12, 12)


def net() -> nn.Module:
    torch.manual_seed(0)
    return lively(Net(3, [("conv", 32), ("residual", 0), ("conv", 24)])).eval()


def groups(module: nn.Module) -> dict[str, Group]:
    return {group.name: group for group in find_groups(module, EXAMPLE, {"head"}).groups}


def scores(module: nn.Module, importance: str, name: str, norm: int = 2) -> torch.Tensor:
    config = PruneConfig(macs=0.5, importance=importance, norm=norm)
    found = IMPORTANCES.get(importance)(config).score(groups(module)[name])
    assert found is not None
    return found


@pytest.mark.parametrize("norm", [1, 2])
def test_magnitude_by_hand(norm: int) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.Conv2d(4, 2, 1, bias=False)).eval()
    with torch.no_grad():
        module[0].weight.copy_(torch.arange(12.0).view(4, 3, 1, 1))
        module[1].weight.copy_(torch.tensor([[1.0, -2, 0, 3], [0, 2, -1, 1]]).view(2, 4, 1, 1))
    by_hand = {
        1: torch.tensor([3.0 + 1, 12 + 4, 21 + 1, 30 + 4]),
        2: torch.tensor([5.0 + 1, 50 + 8, 149 + 1, 302 + 10]),
    }[norm]
    torch.testing.assert_close(scores(module, "magnitude", "0", norm), by_hand / by_hand.mean())


@pytest.mark.parametrize("name", ["blocks.2.second.0", "blocks.2.first.0", "blocks.3.0"])
def test_magnitude_taylor_and_bn_scale_equal_torch_pruning(name: str) -> None:
    module = net()
    images, targets = torch.randn(8, 3, 12, 12), torch.randint(0, 5, (8,))
    nn.functional.cross_entropy(module(images), targets).backward()
    graph = tp.DependencyGraph().build_dependency(module, [EXAMPLE], verbose=False)
    root = module.get_submodule(groups(module)[name].name)
    theirs = graph.get_pruning_group(
        root, tp.prune_conv_out_channels, list(range(root.out_channels))
    )
    for importance, reference in (
        ("magnitude", tp.importance.GroupMagnitudeImportance(p=2)),
        ("bn-scale", tp.importance.BNScaleImportance()),
    ):
        torch.testing.assert_close(scores(module, importance, name), reference(theirs))
    # torch-pruning leaves BatchNorm out of its Taylor score.
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.weight.grad.zero_()
    ours = scores(module, "taylor", name)
    reference = tp.importance.GroupTaylorImportance()(theirs)
    torch.testing.assert_close(ours, reference)


def test_lamp_by_hand() -> None:
    torch.testing.assert_close(
        lamp(torch.tensor([4.0, 1.0, 3.0, 2.0])), torch.tensor([1.0, 0.1, 3 / 7, 2 / 9])
    )
    assert torch.equal(lamp(torch.zeros(3)), torch.zeros(3))
    torch.testing.assert_close(lamp(torch.tensor([0.0, 5.0])), torch.tensor([0.0, 1.0]))


def test_the_mean_score_of_a_group_is_one_but_for_lamp_and_random() -> None:
    module = net()
    for importance in ("magnitude", "bn-scale"):
        for name in groups(module):
            assert float(scores(module, importance, name).mean()) == pytest.approx(1.0, abs=1e-5)
    for name in groups(module):
        assert float(scores(module, "lamp", name).max()) == 1.0


def test_random_depends_on_seed_and_group_only() -> None:
    module = net()
    found = groups(module)

    def draw(seed: int, name: str) -> torch.Tensor:
        config = PruneConfig(macs=0.5, importance="random", seed=seed)
        drawn = IMPORTANCES.get("random")(config).score(found[name])
        assert drawn is not None
        return drawn

    torch.manual_seed(1)
    first = draw(0, "blocks.3.0")
    torch.manual_seed(2)
    assert torch.equal(first, draw(0, "blocks.3.0"))
    assert not torch.equal(first, draw(1, "blocks.3.0"))
    assert not torch.equal(first, draw(0, "blocks.2.first.0")[:24])


def test_bn_scale_has_no_basis_without_batch_norm() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)).eval()
    config = PruneConfig(macs=0.5, importance="bn-scale")
    assert IMPORTANCES.get("bn-scale")(config).score(groups(module)["0"]) is None


def test_zero_weights_score_zero_not_nan() -> None:
    module = net()
    dead = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in dead.parameters():
            parameter.zero_()
    for importance in ("magnitude", "bn-scale", "lamp"):
        for name in groups(dead):
            assert torch.equal(
                scores(dead, importance, name), torch.zeros(groups(dead)[name].channels)
            )


def test_grouped_and_transposed_convolutions_by_hand() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 4, 1, bias=False),
        nn.Conv2d(4, 4, 1, groups=2, bias=False),
        nn.ConvTranspose2d(4, 3, 1, bias=False),
        nn.Conv2d(3, 2, 1, bias=False),
    ).eval()
    with torch.no_grad():
        module[0].weight.fill_(0)
        module[1].weight.copy_(torch.tensor([[1.0, 2], [0, 0], [5, 0], [0, 7]]).view(4, 2, 1, 1))
        module[2].weight.copy_(torch.arange(12.0).view(4, 3, 1, 1))
        module[3].weight.fill_(0)
    found = groups(module)
    # Inputs of the grouped convolution: each block's rows, joined per local channel.
    inputs = torch.tensor([1.0 + 25, 4 + 49, 1 + 25, 4 + 49])
    torch.testing.assert_close(scores(module, "magnitude", "0"), inputs / inputs.mean())
    outputs = torch.tensor([1.0 + 4, 0, 25, 49]) + torch.tensor([5.0, 50, 149, 302])
    torch.testing.assert_close(scores(module, "magnitude", "1"), outputs / outputs.mean())
    transposed = torch.tensor([0.0 + 9 + 36 + 81, 1 + 16 + 49 + 100, 4 + 25 + 64 + 121])
    torch.testing.assert_close(scores(module, "magnitude", "2"), transposed / transposed.mean())
    assert [unit.tolist() for unit in found["0"].units] == [[0, 2], [1, 3]]


def from_data(
    module: nn.Module,
    importance: str,
    batch: tuple[torch.Tensor, torch.Tensor],
    loss: Callable[[Any, Any], torch.Tensor] = nn.functional.cross_entropy,
) -> dict[str, torch.Tensor]:
    """Scores of every group that has a basis, after seeing ``batch``."""
    found = find_groups(module, EXAMPLE, {"head"}).groups
    score = IMPORTANCES.get(importance)(PruneConfig(macs=0.5, importance=importance))
    with score.observing(module, found, lambda: iter([batch]), loss):
        told = {group.name: score.score(group) for group in found}
    return {name: values for name, values in told.items() if values is not None}


def test_hessian_by_hand() -> None:
    """Two linear layers of scalars: the gradient of one image is the product of the others."""
    module = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Conv2d(2, 1, 1, bias=False)).eval()
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([1.0, 3]).view(2, 1, 1, 1))
        module[1].weight.copy_(torch.tensor([2.0, 0.5]).view(1, 2, 1, 1))
    images = torch.tensor([1.0, -2.0]).view(2, 1, 1, 1)
    group = find_groups(module, torch.ones(1, 1, 1, 1), ()).groups[0]
    score = IMPORTANCES.get("hessian")(PruneConfig(macs=0.5, importance="hessian"))
    batches = [(images, torch.zeros(2))]
    with score.observing(module, [group], lambda: iter(batches), lambda out, _: out.sum()):
        found = score.score(group)
    # For both layers g * w = x * w0 * w1, so each adds mean(x^2) (w0 w1)^2.
    by_hand = torch.tensor([4.0, 2.25]) * 2.5
    torch.testing.assert_close(found, by_hand / by_hand.mean())
    assert module[0].weight.grad is None


def test_gradients_that_cancel_between_images_count_for_hessian_and_not_for_taylor() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.Conv2d(4, 2, 1, bias=False)).eval()
    image = torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    opposite = (torch.cat([image, image]), torch.tensor([1.0, -1.0]))

    def loss(outputs: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
        return (outputs.sum((1, 2, 3)) * signs).mean()

    assert float(from_data(module, "taylor", opposite, loss)["0"].abs().max()) < 1e-4
    assert float(from_data(module, "hessian", opposite, loss)["0"].mean()) == pytest.approx(1.0)


@pytest.mark.parametrize("importance", ["taylor", "hessian"])
def test_a_channel_that_nothing_depends_on_scores_zero(importance: str) -> None:
    module = net()
    with torch.no_grad():
        module.head.weight[:, 4 * 5 : 4 * 6] = 0  # flattened 2x2 maps of channel 5
    batch = torch.randn(6, 3, 12, 12), torch.randint(0, 5, (6,))
    found = from_data(module, importance, batch)["blocks.3.0"]
    assert float(found[5]) == 0.0
    assert float(found.min()) == 0.0
    assert int((found > 0).sum()) > len(found) // 2


def test_activation_is_what_the_readers_get() -> None:
    module = net()
    norm = module.blocks[3][1]
    with torch.no_grad():
        norm.bias[7] = -100.0  # the ReLU behind it is silent
    inputs: list[torch.Tensor] = []
    handle = module.head.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    images = torch.randn(6, 3, 12, 12)
    found = from_data(module, "activation", (images, torch.zeros(6)))
    handle.remove()
    by_hand = inputs[-1].abs().mean(0).view(24, 4).sum(1)
    torch.testing.assert_close(found["blocks.3.0"], by_hand / by_hand.mean())
    assert float(found["blocks.3.0"][7]) == 0.0
    assert not module.head._forward_pre_hooks
    # Channels of a sum have several readers; all count, and the group's mean is one.
    assert all(float(values.mean()) == pytest.approx(1.0) for values in found.values())


def test_activation_has_no_basis_where_nothing_reads_the_channels() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    batch = torch.randn(2, 3, 12, 12), torch.zeros(2)
    assert not from_data(module, "activation", batch)


@pytest.mark.parametrize("importance", ["taylor", "hessian", "activation"])
def test_scores_from_data_need_data(importance: str) -> None:
    module = net()
    score = IMPORTANCES.get(importance)(PruneConfig(macs=0.5, importance=importance))
    with (
        pytest.raises(UsageError, match="give batches and loss"),
        score.observing(module, list(groups(module).values()), None, None),
    ):
        pass
