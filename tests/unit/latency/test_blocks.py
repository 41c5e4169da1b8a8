"""The time of a block is that of the layers which a network without it does not have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from exported_network import SHAPE, Exported
from networks import Net, lively
from torch import nn

from edgevision.export import load_onnx
from edgevision.latency import WidthShapes, fit_latency, sample_widths
from edgevision.latency.shapes import dimensions, layers_of
from edgevision.models.cifar_resnet import CifarResNet
from edgevision.pruning.blocks import Block, find_blocks, remove_blocks


def inverted() -> nn.Module:
    from torchvision.models import mobilenet_v2

    return mobilenet_v2(width_mult=0.25, num_classes=5)


def clipped(number: int) -> nn.Module:
    """Blocks that end in an activation with constants of its own."""

    def block() -> nn.Module:
        return nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(32, 16, 1), nn.ReLU6())

    blocks = [block() for _ in range(number)]
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)
    )


def transformer() -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(16, 4, num_classes=5, embed_dim=16, depth=3, num_heads=2)


def trained(module: nn.Module) -> nn.Module:
    """No two parameters alike, as after training: the export keeps alike ones once."""
    for parameter in lively(module).parameters():
        nn.init.normal_(parameter)
    return module.eval()


def kinds(model: onnx.ModelProto) -> Counter[tuple[str, int]]:
    """Layers of a graph by kind and output channels."""
    sizes = dimensions(model)
    names = sorted(sizes)
    numbers = {place: index for index, place in enumerate(names)}
    layers = layers_of(model, numbers, np.ones(len(names), dtype=np.bool_))
    return Counter((layer.kind, sizes[names[layer.out]]) for layer in layers)


@pytest.mark.parametrize(
    "make",
    [
        lambda: CifarResNet(14, 5, 3),
        lambda: Net(3, (("residual", 0), ("excite", 0), ("residual", 0), ("conv", 24))),
        lambda: clipped(3),
        pytest.param(inverted, marks=pytest.mark.slow),
        transformer,
    ],
)
def test_layers_of_a_block_are_those_that_are_missing_without_it(
    make: Callable[[], nn.Module], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    module = trained(make())
    exported = Exported(tmp_path, module)
    model = load_onnx(exported.path)
    shapes = WidthShapes(model, exported.cost, exported.bounds, lambda _: model)
    blocks = [block for block in find_blocks(module, torch.zeros(1, *SHAPE)) if whole(block)]
    assert blocks
    for block in blocks[:1] + blocks[-1:]:
        found = shapes.layers_inside(block.name, block.shape)
        shorter = trained(make())
        remove_blocks(shorter, [block.name])
        folder = tmp_path / block.name
        folder.mkdir()
        missing = kinds(model) - kinds(load_onnx(Exported(folder, shorter).path))
        numbered = [shapes.layers[n] for n in found]
        inside = Counter(layer.kind for layer in numbered)
        assert inside == Counter(kind for kind, _ in missing.elements()), block.name


def whole(block: Block) -> bool:
    """Not the branch of a transformer's block, nor all its blocks together."""
    return block.name != "blocks" and not block.name.endswith("mlp")


def test_the_time_of_layers_is_their_part_of_the_network_s(exported: Exported) -> None:
    shapes = WidthShapes(load_onnx(exported.path), exported.cost, exported.bounds)
    rows = sample_widths(list(exported.allowed.values()), 40, seed=1)
    rates = np.random.default_rng(0).uniform(0, 1e-4, len(shapes.kinds))
    model = fit_latency(shapes, rows, 0.05 + shapes.amounts(rows) @ rates)
    block = next(iter(find_blocks(exported.module, torch.zeros(1, *SHAPE))))
    inside = shapes.layers_inside(block.name, block.shape)
    others = [n for n in range(len(shapes.layers)) if n not in inside]
    assert (model.time_in(inside, rows) > 0).all()
    assert model.time_in(inside, rows) + model.time_in(others, rows) == pytest.approx(
        model.milliseconds(rows) - model.fixed_ms
    )
    assert shapes.layers_inside("nowhere", block.shape) == []
    assert model.time_in([], rows).tolist() == [0.0] * len(rows)
