"""Attention heads: found however they are laid out, removed exactly, or left with the reason."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from networks import Private, Transformer
from torch import nn

from edgevision.errors import ModelError
from edgevision.pruning import PruneConfig, count, prune, rebuild
from edgevision.pruning.graph import find_groups, remove
from edgevision.pruning.heads import find_heads

IMAGE = (1, 3, 16, 16)


class Fused(nn.Module):
    """Queries, keys and values from one layer, heads outside: (3, heads, width) or heads first."""

    def __init__(self, width: int, heads: int, *, heads_first: bool = False) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, 8
        self.attn_dim = 8 * heads
        self.heads_first = heads_first
        self.qkv = nn.Linear(width, 3 * self.attn_dim)
        self.q_norm = nn.LayerNorm(8)
        self.proj = nn.Linear(self.attn_dim, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, _ = x.shape
        if self.heads_first:
            qkv = self.qkv(x).reshape(batch, tokens, self.num_heads, 3, 8).permute(3, 0, 2, 1, 4)
        else:
            qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, 8).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        x = nn.functional.scaled_dot_product_attention(self.q_norm(q), k, v)
        return self.proj(x.transpose(1, 2).reshape(batch, tokens, self.attn_dim))


class Biased(nn.Module):
    """Queries narrower than values, normalised, with a table of position biases that is kept."""

    def __init__(self, width: int, heads: int, tokens: int) -> None:
        super().__init__()
        self.num_heads, self.val_width = heads, 16 * heads
        self.q = nn.Linear(width, 8 * heads)
        self.kv = nn.Linear(width, 24 * heads)
        self.norm = nn.BatchNorm1d(16 * heads)
        self.table = nn.Parameter(torch.randn(heads, tokens))
        self.kept: torch.Tensor | None = None
        self.proj = nn.Linear(16 * heads, width)
        nn.init.zeros_(self.proj.weight)  # as new networks may have it

    def train(self, mode: bool = True) -> Biased:
        self.kept = None
        return super().train(mode)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, _ = x.shape
        if self.kept is None or self.training:
            self.kept = self.table[:, None, :] * 1.0
        q = self.q(x).reshape(batch, tokens, self.num_heads, -1).transpose(1, 2)
        k, v = self.kv(x).view(batch, tokens, self.num_heads, -1).split([8, 16], dim=3)
        attention = (q @ k.permute(0, 2, 3, 1) + self.kept).softmax(-1)
        x = (attention @ v.transpose(1, 2)).transpose(1, 2).reshape(batch, tokens, self.val_width)
        x = self.norm(x.flatten(0, 1)).reshape(x.shape)
        return self.proj(torch.relu(x))


class Talking(Fused):
    """Heads that are mixed cannot be told apart."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.mix = nn.Parameter(torch.randn(heads, heads))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, 8).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        scores = torch.einsum("bhnm,hg->bgnm", q @ k.transpose(-2, -1), self.mix)
        x = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, tokens, self.attn_dim)
        return self.proj(x)


class OfInput(Fused):
    """Takes the width of its heads from the input's, which has to be a multiple of theirs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = x.shape
        each = width // self.num_heads
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, each).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        x = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(batch, tokens, width))


def make(kind: str) -> Transformer:
    torch.manual_seed(0)
    return Transformer(
        {
            "fused": lambda: Fused(32, 4),
            "heads first": lambda: Fused(32, 4, heads_first=True),
            "biased": lambda: Biased(32, 4, 16),
            "talking": lambda: Talking(32, 4),
            "of input": lambda: OfInput(32, 4),
        }[kind]()
    ).eval()


def pruned(module: nn.Module, **fields: Any) -> Any:
    return prune(
        module,
        example_shape=IMAGE,
        config=PruneConfig(**fields),
        ignored=[module.head],
        round_to=8,
    )


@pytest.mark.parametrize("kind", ["fused", "heads first", "biased"])
@pytest.mark.parametrize("gone", [[0], [1, 2], [3, 0, 1]])
def test_a_network_without_heads_equals_one_that_does_not_read_them(
    kind: str, gone: list[int]
) -> None:
    module = make(kind)
    nn.init.normal_(module.attention.proj.weight)
    graph = find_groups(module, torch.zeros(IMAGE), {"head"})
    group = next(group for group in graph.groups if group.root.startswith("attention."))
    assert len(group.units) == 4
    narrow = copy.deepcopy(module)
    remove(narrow, graph, {group.root: [int(c) for head in gone for c in group.units[head]]})
    assert narrow.attention.num_heads == 4 - len(gone)
    each = module.attention.proj.in_features // 4
    assert narrow.attention.proj.in_features == each * (4 - len(gone))
    with torch.no_grad():
        for head in gone:
            module.attention.proj.weight[:, head * each : (head + 1) * each] = 0
        images = torch.randn(3, 3, 16, 16)
        torch.testing.assert_close(narrow(images), module(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["fused", "heads first", "biased"])
def test_half_of_the_heads_go_and_the_structure_is_rebuilt(kind: str) -> None:
    module = make(kind)
    result = pruned(module, pruning_ratio=0.5)
    assert [name for name, _ in result.table.whole] == ["head"]
    assert result.module.attention.num_heads == 2
    assert result.module.fc1.out_features == 32
    assert result.module.patches.out_channels == 16
    assert result.macs_after == count(result.module, torch.zeros(IMAGE)).macs
    fresh = rebuild(make(kind), result.structure)
    fresh.load_state_dict(result.module.state_dict(), strict=True)
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(fresh(images), result.module(images))


@pytest.mark.parametrize(
    ("kind", "why"),
    [("talking", "cannot be told apart"), ("of input", "invalid for input of size")],
)
def test_heads_that_cannot_go_stay_with_the_reason(kind: str, why: str) -> None:
    result = pruned(make(kind), pruning_ratio=0.5)
    assert result.module.attention.num_heads == 4
    assert result.module.fc1.out_features == 32  # the rest is pruned all the same
    assert why in dict(result.table.whole)["attention"]


def test_private_numbers_are_rebuilt() -> None:
    torch.manual_seed(0)
    module = Transformer(Private(32, 4)).eval()
    result = pruned(module, pruning_ratio=0.5)
    assert result.module.attention._heads == 2
    assert result.structure["attributes"]["attention"] == {"_heads": 2, "_inner": 16}
    fresh = rebuild(Transformer(Private(32, 4)), result.structure).eval()
    fresh.load_state_dict(result.module.state_dict(), strict=True)
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(fresh(images), result.module(images))


class ByKeyword(Fused):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, _ = x.shape
        qkv = self.qkv(input=x).reshape(batch, tokens, 3, self.num_heads, 8)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        x = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(input=x.transpose(1, 2).reshape(batch, tokens, self.attn_dim))


class InDict(Fused):
    def forward(self, x: torch.Tensor) -> Any:
        return {"out": super().forward(x)}


class NoGradient(Fused):
    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)


class Detached(NoGradient):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).detach()


class Unwrapped(nn.Module):
    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.inner = attention

    def forward(self, x: torch.Tensor) -> Any:
        x = self.inner(x)
        return x["out"] if isinstance(x, dict) else x


@pytest.mark.parametrize("kind", [ByKeyword, InDict, NoGradient, Detached])
def test_whatever_an_attention_raises_is_the_reason_for_which_its_heads_stay(kind: Any) -> None:
    torch.manual_seed(0)
    module = Transformer(Unwrapped(kind(32, 4))).eval()
    found, whole = find_heads(module, torch.zeros(IMAGE))
    assert not found
    assert "cannot be looked into" in whole["attention.inner"]
    result = pruned(module, pruning_ratio=0.5)
    assert result.module.attention.inner.num_heads == 4
    assert result.module.fc1.out_features == 32


def test_a_network_that_fails_is_for_the_trace_to_refuse() -> None:
    with pytest.raises(ModelError, match="Cannot trace Transformer"):
        find_groups(make("fused"), torch.zeros(1, 4, 16, 16), {"head"})


def test_ignored_attention_keeps_its_heads() -> None:
    result = pruned(make("fused"), pruning_ratio=0.5, ignored_layers=["attention.qkv"])
    assert result.module.attention.num_heads == 4
    assert "attention.qkv" in dict(result.table.whole)


def test_each_head_has_its_channels() -> None:
    found, whole = find_heads(make("fused"), torch.zeros(IMAGE))
    assert not whole
    (heads,) = found
    root, last = heads.slots[0], heads.slots[-1]
    assert (root.name, last.name, last.side) == ("qkv", "proj", "in")
    parts = np.arange(96).reshape(3, 4, 8)
    assert np.array_equal(root.channels, parts.swapaxes(0, 1).reshape(4, 24))
    attributes = [("attention", "num_heads", 4), ("attention", "attn_dim", 32)]
    assert list(heads.attributes) == attributes
