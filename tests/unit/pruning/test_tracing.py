"""Joins and splits are followed however their arguments are given."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from edgevision.pruning.graph import find_groups, remove

IMAGE = (1, 3, 8, 8)


class Joined(nn.Module):
    """Two convolutions side by side, joined and then split by ``split``."""

    def __init__(self, join: Any, split: Any) -> None:
        super().__init__()
        self.join, self.split, self.half = join, split, 8
        self.left, self.right = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)
        self.middle = nn.Conv2d(16, 16, 3)
        self.first, self.second = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.middle(self.join([self.left(x), self.right(x)]))
        a, b = self.split(x, self.half)
        return self.head((self.first(a) * self.second(b)).mean((2, 3)))


@pytest.mark.parametrize(
    "join",
    [
        lambda parts: torch.cat(tensors=parts, dim=1),
        lambda parts: torch.concat(tensors=parts, dim=1),
        lambda parts: torch.cat(dim=1, tensors=parts),
    ],
)
@pytest.mark.parametrize(
    "split",
    [
        lambda x, half: torch.split(tensor=x, split_size_or_sections=half, dim=1),
        lambda x, half: torch.split(dim=1, split_size_or_sections=half, tensor=x),
        lambda x, half: torch.split_with_sizes(input=x, split_sizes=[half, half], dim=1),
        lambda x, half: torch.chunk(input=x, chunks=2, dim=1),
        lambda x, half: x.chunk(dim=1, chunks=2),
        lambda x, half: x.split(dim=1, split_size=half),
    ],
)
def test_arguments_by_keyword(join: Any, split: Any) -> None:
    torch.manual_seed(0)
    plain = Joined(lambda x: torch.cat(x, 1), lambda x, half: torch.split(x, half, 1)).eval()
    module = Joined(join, split).eval()
    wanted = find_groups(plain, torch.zeros(IMAGE), {"head"})
    graph = find_groups(module, torch.zeros(IMAGE), {"head"})
    units = {group.name: len(group.units) for group in graph.groups}
    assert units == {group.name: len(group.units) for group in wanted.groups}
    assert {"left", "right", "middle"} <= units.keys()
    remove(module, graph, {"left": [1, 2]})
    assert module.middle.in_channels == 14
    assert module(torch.zeros(IMAGE)).shape == (1, 2)
