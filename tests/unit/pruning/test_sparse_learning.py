"""Group regularization against its formula by hand, and what training with it does."""

from __future__ import annotations

import pytest
import torch
from networks import KINDS, Net, lively
from torch import nn

from edgevision.pruning.sparse_learning import GroupRegularizer, strengths

SHAPE = (1, 3, 12, 12)


def with_zero_gradients(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return module


def test_strengths_grow_from_1_to_16_as_importance_falls() -> None:
    found = strengths(torch.tensor([3.0, 1.0, 2.0]))
    torch.testing.assert_close(found, torch.tensor([1.0, 16.0, 4.0]))
    assert torch.equal(strengths(torch.ones(3)), torch.ones(3))
    assert torch.equal(strengths(torch.zeros(3)), torch.ones(3))


def test_the_gradient_by_hand() -> None:
    first, norm, second = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1)
    module = with_zero_gradients(nn.Sequential(first, norm, second).eval())
    with torch.no_grad():
        first.weight.copy_(torch.arange(1.0, 10).view(3, 3, 1, 1))
        second.weight.copy_(torch.tensor([[1.0, 2, 3], [4, 5, 6]]).view(2, 3, 1, 1))
        norm.weight.copy_(torch.tensor([1.0, 2, 0.5]))
    GroupRegularizer(module, SHAPE, 0.1).add()
    rows, columns = first.weight.detach(), second.weight.detach()
    norms = (
        rows.pow(2).sum((1, 2, 3)) + norm.weight.detach().pow(2) + columns.pow(2).sum((0, 2, 3))
    ).sqrt()
    gamma = 2 ** (4 * (norms.max() - norms) / (norms.max() - norms.min()))
    torch.testing.assert_close(first.weight.grad, 0.1 * gamma.view(3, 1, 1, 1) * rows)
    torch.testing.assert_close(norm.weight.grad, 0.1 * gamma * norm.weight.detach())
    torch.testing.assert_close(second.weight.grad, 0.1 * gamma.view(1, 3, 1, 1) * columns)
    assert not first.bias.grad.any()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_group_is_shrunk_towards_zero(kind: str) -> None:
    """No weight is pushed away from zero, and inner layers are all reached."""
    module = with_zero_gradients(lively(Net(3, [(kind, 16), ("conv", 16)])).eval())
    GroupRegularizer(module, SHAPE, 0.1, ignored=[module.head]).add()
    reached = 0
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.BatchNorm2d):
            share = layer.weight.grad / layer.weight.detach()
            assert float(share.min()) > -1e-6
            assert float(share.max()) < 0.1 * 32 + 1e-4  # a weight lies in two groups at most
            reached += bool(layer.weight.grad.any())
    assert reached == sum(isinstance(x, nn.Conv2d | nn.BatchNorm2d) for x in module.modules())


def test_ignored_layers_and_frozen_weights_stay() -> None:
    module = with_zero_gradients(lively(Net(3, [("conv", 16), ("conv", 16)])).eval())
    module.blocks[0][0].weight.grad = None
    GroupRegularizer(module, SHAPE, 0.1, ignored=[module.head], patterns=["blocks.2.0"]).add()
    assert module.blocks[0][0].weight.grad is None
    assert not module.blocks[2][1].weight.grad.any()
    assert not module.head.weight.grad.any()
    assert module.blocks[1][0].weight.grad.any()


def test_training_with_it_spreads_a_layers_channels() -> None:
    """Plain descent on the term alone: the weak channels vanish against the strong ones."""
    module = lively(Net(3, [("conv", 16)])).eval()
    regularizer = GroupRegularizer(module, SHAPE, 0.5, ignored=[module.head])
    norm = module.blocks[1][1].weight

    def spread() -> float:
        sizes = module.blocks[1][0].weight.detach().pow(2).sum((1, 2, 3))
        return float(sizes.min() / sizes.max())

    before = spread()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(20):
        with_zero_gradients(module)
        regularizer.add()
        optimizer.step()
    assert spread() < before / 100
    assert float(norm.detach().max()) > 0.1
