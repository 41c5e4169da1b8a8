"""Small networks whose shapes stress the dependency graph, and the masked twin of a pruning."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from edgevision.pruning.graph import find_groups


def conv_bn(inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = conv_bn(width, width)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1), nn.BatchNorm2d(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.second(self.first(x)))


class Concat(nn.Module):
    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.grow = conv_bn(width, growth)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.grow(x)], 1)


class Excite(nn.Module):
    """Squeeze and excite."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(width, max(width // 4, 4), 1)
        self.expand = nn.Conv2d(max(width // 4, 4), width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = self.expand(torch.relu(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * torch.sigmoid(gate)


class Gated(nn.Module):
    """A convolution whose two halves are multiplied: channel i leaves with channel i + width."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.both = nn.Conv2d(inputs, 2 * width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value, gate = torch.chunk(self.both(x), 2, 1)
        return value * torch.sigmoid(gate)


class Branches(nn.Module):
    """Equal parts of one convolution, read by different layers."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.both = nn.Conv2d(inputs, 2 * width, 1)
        self.first = nn.Conv2d(width, width, 1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = self.both(x).chunk(2, 1)
        return self.second(torch.relu(right)) + self.first(left)


class Mixed(nn.Module):
    """Parts of different sizes, kept in a list, each with a layer of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.splits = [width // 2, width - width // 2]
        self.parts = nn.ModuleList(
            conv_bn(part, part, groups=part if odd else 1) for odd, part in enumerate(self.splits)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = torch.split(x, self.splits, 1)
        return torch.cat([layer(part) for layer, part in zip(self.parts, parts, strict=True)], 1)


class Cascade(nn.Module):
    """Equal parts of a width that the module remembers, each added to the one before."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.all = conv_bn(inputs, 3 * width)
        self.second = conv_bn(width, width)
        self.third = conv_bn(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second, third = torch.split(self.all(x), self.width, 1)
        second = self.second(second)
        return torch.cat([first, second, self.third(third + second)], 1)


class Net(nn.Module):
    """Stem, the given blocks in a row, a head over flattened 2x2 maps."""

    def __init__(self, channels: int, blocks: Sequence[tuple[str, int]], classes: int = 5) -> None:
        super().__init__()
        width = 16
        layers: list[nn.Module] = [conv_bn(channels, width)]
        for kind, size in blocks:
            if kind == "residual":
                layers.append(Residual(width))
            elif kind == "concat":
                layers.append(Concat(width, size))
                width += size
            elif kind == "depthwise":
                layers += [conv_bn(width, width, groups=width), conv_bn(width, size)]
                width = size
            elif kind == "grouped":
                layers += [conv_bn(width, size), conv_bn(size, size, groups=4)]
                width = size
            elif kind == "multiplier":
                layers.append(conv_bn(width, 2 * width, groups=width))
                width *= 2
            elif kind == "mixed":
                layers.append(Mixed(width))
            elif kind == "cascade":
                layers.append(Cascade(width, size))
                width = 3 * size
            elif kind == "excite":
                layers.append(Excite(width))
            elif kind in ("gated", "branches"):
                layers.append({"gated": Gated, "branches": Branches}[kind](width, size))
                width = size
            else:
                layers.append(conv_bn(width, size))
                width = size
        self.blocks = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.head = nn.Linear(4 * width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.pool(self.blocks(x)).flatten(1))


KINDS = (
    "conv",
    "residual",
    "concat",
    "depthwise",
    "grouped",
    "excite",
    "gated",
    "branches",
    "multiplier",
    "mixed",
    "cascade",
)


class Transformer(nn.Module):
    """Patches, one block, a head."""

    def __init__(self, attention: nn.Module, width: int = 32) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.position = nn.Parameter(torch.randn(1, 16, width))
        self.norm = nn.LayerNorm(width)
        self.attention = attention
        self.fc1 = nn.Linear(width, 64)
        self.fc2 = nn.Linear(64, width)
        self.head = nn.Linear(width, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.position
        x = x + self.attention(self.norm(x))
        return self.head((x + self.fc2(nn.functional.gelu(self.fc1(x)))).mean(1))


class Private(nn.Module):
    """Keeps the numbers that shrink to itself: heads, their width together, parts of a split."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self._heads, self._inner, self._passes = heads, 8 * heads, 0
        self.qkv = nn.Linear(width, 24 * heads)
        self.proj = nn.Linear(8 * heads, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self._passes += 1
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self._heads, 8).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        x = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(batch, tokens, self._inner))


def lively(module: nn.Module, seed: int = 0) -> nn.Module:
    """Random BatchNorm statistics and scales, so that no mistake hides behind zeros and ones."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.weight.data, layer.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            for tensor in (layer.bias.data, layer.running_mean):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
    return module


def masked(module: nn.Module, example: torch.Tensor, removals: dict[str, list[int]]) -> nn.Module:
    """The unpruned network, in which no layer reads the removed channels any more."""
    twin = copy.deepcopy(module)
    roots = {group.root: group for group in find_groups(module, example, ()).groups}
    for group in roots.values():
        gone = set(removals.get(group.root, ()))
        for slot in group.slots:
            if slot.side != "in":
                continue
            weight = twin.get_submodule(slot.name).weight.data
            channels = [int(c) for c, r in zip(slot.channels, slot.roots, strict=True) if r in gone]
            groups = getattr(slot.module, "groups", 1)
            per_block = weight.shape[1]
            for channel in channels:
                block, local = divmod(channel, per_block)
                rows = len(weight) // groups
                weight[block * rows : (block + 1) * rows, local] = 0
    return twin


def net(*blocks: tuple[str, int], channels: int = 3, seed: int = 0) -> Net:
    torch.manual_seed(seed)
    module = Net(channels, blocks)
    lively(module)
    return module
