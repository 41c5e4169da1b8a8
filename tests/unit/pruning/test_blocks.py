"""Which blocks may go, and what is left when they do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from networks import Net, lively
from torch import nn

from edgevision.errors import ModelError
from edgevision.models.cifar_resnet import CifarResNet
from edgevision.pruning import PruneConfig, prune, rebuild, structure_of
from edgevision.pruning.blocks import find_blocks, remove_blocks, removed
from edgevision.pruning.sensitivity import removal_losses

IMAGE = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def bottlenecks() -> nn.Module:
    from torchvision.models.resnet import Bottleneck, ResNet

    return ResNet(Bottleneck, [2, 1, 1, 2], num_classes=5)


def inverted() -> nn.Module:
    from torchvision.models import mobilenet_v2

    return mobilenet_v2(width_mult=0.25, num_classes=5)


def transformer() -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(16, 4, num_classes=5, embed_dim=16, depth=2, num_heads=2)


def plain() -> nn.Module:
    return Net(3, (("conv", 24), ("depthwise", 12), ("conv", 12)))


class Picky(nn.Module):
    """Blocks that have the shapes for it, but may not go."""

    def __init__(self) -> None:
        super().__init__()

        def pair() -> nn.Module:
            return nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1))

        self.stem, self.head = nn.Conv2d(3, 8, 1), nn.Linear(8, 5)
        self.twice, self.asked, self.unused, self.free = pair(), pair(), pair(), pair()
        self.asked.scale = 2.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.twice(self.twice(self.stem(x)))
        x = self.free(self.asked(x) * self.asked.scale)
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: CifarResNet(14, 5, 3), ["blocks.0", "blocks.1", "blocks.3", "blocks.5"]),
        (bottlenecks, ["layer1.1", "layer4.1"]),
        (inverted, [f"features.{n}" for n in (1, 3, 5, 6, 8, 9, 10, 12, 13, 15, 16)]),
        (
            transformer,
            ["blocks"] + [f"blocks.{n}{part}" for n in (0, 1) for part in ("", ".mlp")],
        ),
        (lambda: Net(3, (("residual", 0), ("excite", 0), ("conv", 24))), ["blocks.1", "blocks.2"]),
        (plain, []),
        (Picky, ["free"]),
    ],
)
def test_blocks_are_told_by_what_they_do(
    make: Callable[[], nn.Module], expected: list[str]
) -> None:
    torch.manual_seed(0)
    module = lively(make()).eval()
    before = {name: id(layer) for name, layer in module.named_modules()}
    found = find_blocks(module, IMAGE)
    assert [block.name for block in found] == expected
    assert {name: id(layer) for name, layer in module.named_modules()} == before
    for block in found:
        assert block.layers == {
            name
            for name, layer in module.named_modules()
            if name.startswith(f"{block.name}.") and isinstance(layer, (nn.Conv2d, nn.Linear))
        }


def test_what_is_ignored_is_in_no_block() -> None:
    module = CifarResNet(14, 5, 3).eval()
    names = [block.name for block in find_blocks(module, IMAGE, {"blocks.3.conv2", "head"})]
    assert names == ["blocks.0", "blocks.1", "blocks.5"]


def test_blocks_overlap_where_one_is_in_the_other() -> None:
    found = {block.name: block for block in find_blocks(transformer().eval(), IMAGE)}
    assert found["blocks"].overlaps(found["blocks.1.mlp"])
    assert found["blocks.1.mlp"].overlaps(found["blocks.1"])
    assert not found["blocks.0"].overlaps(found["blocks.1"])
    assert found["blocks.1"].shape == (1, 17, 16)


def test_a_removed_block_is_an_identity_bit_for_bit_and_comes_back() -> None:
    torch.manual_seed(0)
    module = lively(CifarResNet(14, 5, 3)).eval()
    blocks = list(module.blocks)
    shorter = nn.Sequential(
        nn.Sequential(module.conv, module.bn, module.relu),
        *(blocks[place] for place in (0, 2, 3, 4)),
        nn.Sequential(module.pool, nn.Flatten(), module.head),
    )
    with torch.no_grad():
        whole, expected = module(IMAGE), shorter(IMAGE)
        with removed(module, ["blocks.1", "blocks.5"]):
            assert torch.equal(module(IMAGE), expected)
        assert torch.equal(module(IMAGE), whole)
        remove_blocks(module, ["blocks.1", "blocks.5"])
        assert torch.equal(module(IMAGE), expected)
    with pytest.raises(ModelError, match=r"no block 'blocks\.9'"):
        remove_blocks(module, ["blocks.0", "blocks.9"])
    assert not isinstance(module.get_submodule("blocks.0"), nn.Identity)


def batches() -> Iterator[tuple[torch.Tensor, Any]]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        images = torch.randn(32, 3, 16, 16, generator=generator)
        yield images, images.mean((2, 3)).argmax(1)


def useless(module: Any, block: str) -> None:
    """Make a residual block one that changes nothing, whatever it computes."""
    layer = module.get_submodule(f"{block}.bn2")
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def test_a_removal_costs_what_the_loss_rises_by() -> None:
    torch.manual_seed(0)
    module: Any = lively(CifarResNet(14, 3, 3))
    useless(module, "blocks.3")
    none, one, both = removal_losses(
        module,
        [["blocks.3"], ["blocks.5"], ["blocks.3", "blocks.5"]],
        batches,
        nn.functional.cross_entropy,
        3,
    )
    assert none == 0.0
    assert both == one
    module.train()  # batch norms adapt to the batch while losses are measured
    losses = []
    for name in ((), ("blocks.5",)):
        with torch.no_grad(), removed(module, name):
            parts = [nn.functional.cross_entropy(module(x), y) for x, y in batches()]
            losses.append(float(torch.stack(parts).mean()))
    assert one == pytest.approx(max(0.0, losses[1] - losses[0]), abs=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_pruned_without_blocks_and_rebuilt(training: bool) -> None:
    torch.manual_seed(0)
    module = lively(CifarResNet(14, 5, 3)).train(training)
    result = prune(
        module,
        example_shape=(1, 3, 16, 16),
        config=PruneConfig(pruning_ratio=0.25),
        ignored=[module.head],
        without=["blocks.1", "blocks.5"],
    )
    assert isinstance(result.module.get_submodule("blocks.1"), nn.Identity)
    assert all(layer.training == training for layer in result.module.modules())
    assert not isinstance(module.get_submodule("blocks.1"), nn.Identity), "the original is whole"
    rows = {row.name: row for row in result.table.rows}
    gone = rows["blocks.5.conv2"]
    assert (gone.channels_before, gone.channels_after) == ((64, 64), (0, 0))
    assert gone.macs_before > gone.macs_after == gone.params_after == 0
    assert sum(row.macs_after for row in result.table.rows) == result.macs_after
    assert result.structure["removed"] == ["blocks.1", "blocks.5"]

    fresh = rebuild(CifarResNet(14, 5, 3), result.structure)
    fresh.load_state_dict(result.module.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(fresh.eval()(IMAGE), result.module.eval()(IMAGE))
    assert structure_of(fresh, CifarResNet(14, 5, 3)) == result.structure
    # A pruned network that is pruned again is still told against the whole one.
    again = prune(
        fresh,
        example_shape=(1, 3, 16, 16),
        config=PruneConfig(pruning_ratio=0.25),
        ignored=[fresh.head],
        without=["blocks.0"],
    )
    structure = structure_of(again.module, CifarResNet(14, 5, 3))
    assert structure["removed"] == ["blocks.0", "blocks.1", "blocks.5"]


@pytest.mark.parametrize("removed_names", ["blocks.1", [3], ["blocks.9"], [""]])
def test_damaged_removals_are_refused(removed_names: Any) -> None:
    structure = {"version": 1, "attributes": {}, "tensors": {}, "removed": removed_names}
    module = CifarResNet(14, 5, 3)
    with pytest.raises(ModelError, match=r"removes|removed"):
        rebuild(module, structure)
    assert not isinstance(module.get_submodule("blocks.1"), nn.Identity)
