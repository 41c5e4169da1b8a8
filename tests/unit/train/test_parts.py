from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from edgevision.models import FAMILIES, create
from edgevision.tasks import get_task
from edgevision.train import TrainConfig, default_config
from edgevision.train.ema import Ema
from edgevision.train.fabric import takes_channels_last
from edgevision.train.muon import Muon, orthogonalized
from edgevision.train.optimizers import make_optimizers
from edgevision.train.schedule import rate


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("one-cycle", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1.0, 1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]),
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_schedules(schedule: str, expected: list[float]) -> None:
    found = [rate(schedule, 1 / 3, step, 6) for step in range(6)]
    assert found == pytest.approx(expected)


def test_schedule_without_warmup_starts_at_the_peak() -> None:
    assert rate("one-cycle", 0.0, 0, 10) == 1.0
    assert rate("one-cycle", 1.0, 9, 10) == 1.0


@pytest.mark.parametrize("shape", [(16, 72), (72, 16), (8, 8)])
def test_gram_iteration_equals_the_iteration_on_the_matrix(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    expected = matrix.double() / matrix.double().norm()
    for _ in range(3):
        gram = expected @ expected.T
        expected = 3.4445 * expected + (-4.7750 * gram + 2.0315 * gram @ gram) @ expected
    found = orthogonalized(matrix, 3)
    assert torch.allclose(found.double(), expected, atol=1e-5)


def test_orthogonalized_evens_out_the_singular_values() -> None:
    matrix = torch.randn(32, 128, generator=torch.Generator().manual_seed(0))
    matrix[:, 0] *= 20
    values = torch.linalg.svdvals(orthogonalized(matrix, 5))
    assert values.max() < 1.3
    assert values.min() > 0.6


def test_muon_step_has_the_asked_size_and_keeps_the_norm() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(16, 8, 3, 3, generator=generator))
    before = weight.detach().clone()
    optimizer = Muon([weight], lr=0.05)
    weight.grad = torch.randn(weight.shape, generator=generator)
    optimizer.step()
    assert weight.norm().item() == pytest.approx(before.norm().item(), rel=1e-5)
    cosine = torch.nn.functional.cosine_similarity(weight.flatten(), before.flatten(), dim=0)
    assert math.acos(cosine.item()) == pytest.approx(0.05, rel=0.05)


def test_muon_goes_down_hill() -> None:
    generator = torch.Generator().manual_seed(0)
    goal = torch.randn(8, 24, generator=generator)
    weight = nn.Parameter(torch.randn(8, 24, generator=generator))
    goal *= weight.detach().norm() / goal.norm()
    optimizer = Muon([weight], lr=0.1)
    for step in range(100):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 100)
        optimizer.zero_grad()
        (weight - goal).square().sum().backward()
        optimizer.step()
    assert (weight - goal).norm() < 0.05 * goal.norm()


def test_each_weight_has_one_optimizer_and_frozen_ones_none() -> None:
    module = create("fastnet", num_classes=10, in_channels=3, image_size=(32, 32))
    heads = get_task("classification").head_layers(module, 10)
    muon, sgd = make_optimizers(module, heads, TrainConfig(optimizer="muon"))
    assert isinstance(muon, Muon)
    in_muon = {id(p) for group in muon.param_groups for p in group["params"]}
    in_sgd = {id(p) for group in sgd.param_groups for p in group["params"]}
    assert not in_muon & in_sgd
    assert in_muon | in_sgd == {id(p) for p in module.parameters() if p.requires_grad}
    assert id(module.whiten.weight) not in in_muon | in_sgd
    assert len(in_muon) == 6
    decayed = [p for g in sgd.param_groups if g["weight_decay"] for p in g["params"]]
    assert [id(p) for p in decayed] == [id(module.head.weight)]


def test_average_of_a_constant_is_it_and_of_a_jump_lags() -> None:
    module = nn.Linear(1, 1)
    ema = Ema(module, 0.9)
    with torch.no_grad():
        module.weight.fill_(5.0)
    for _ in range(300):
        ema.update(module)
    assert ema.average["weight"].item() == pytest.approx(5.0, abs=1e-4)
    with torch.no_grad():
        module.weight.fill_(6.0)
    ema.update(module)
    assert ema.average["weight"].item() == pytest.approx(5.1, abs=1e-4)


@pytest.mark.parametrize("name", [*FAMILIES.names(), "timm:resnet18"])
def test_every_model_has_a_recipe(name: str) -> None:
    assert default_config(name).epochs >= 1


def test_thin_strided_shortcuts_are_not_trained_with_channels_last() -> None:
    thin, wide = nn.Conv2d(8, 16, 1, stride=2), nn.Conv2d(16, 16, 1, stride=2)
    assert not takes_channels_last(nn.Sequential(nn.Conv2d(3, 8, 3), thin), "cpu")
    assert takes_channels_last(nn.Sequential(thin), "cuda")
    assert takes_channels_last(nn.Sequential(wide, nn.Conv2d(8, 16, 1)), "cpu")
