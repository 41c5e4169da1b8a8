from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from edgevision.errors import ModelError
from edgevision.models import FAMILIES, create


@pytest.mark.parametrize("name", FAMILIES.names())
@pytest.mark.parametrize(("channels", "size"), [(1, (28, 28)), (3, (32, 32)), (3, (40, 48))])
def test_families_take_gray_rgb_and_other_sizes(
    name: str, channels: int, size: tuple[int, int]
) -> None:
    module = create(name, num_classes=7, in_channels=channels, image_size=size)
    assert not module.training
    assert module(torch.zeros(2, channels, *size)).shape == (2, 7)


@pytest.mark.parametrize("name", FAMILIES.names())
def test_families_are_the_same_at_every_call_and_leave_the_seed(name: str) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first, second = (
        create(name, num_classes=3, in_channels=3, image_size=(32, 32)).state_dict()
        for _ in range(2)
    )
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_parameter_counts_are_those_of_the_paper() -> None:
    counts = {
        depth: sum(
            p.numel()
            for name, p in create(
                f"cifar-resnet{depth}", num_classes=10, in_channels=3, image_size=(32, 32)
            ).named_parameters()
            if "shortcut" not in name
        )
        for depth in (8, 20, 56)
    }
    # He et al., table 6: 0.27 M and 0.85 M, without convolutions on the shortcuts.
    assert counts == {8: 75_290, 20: 269_722, 56: 853_018}


@pytest.mark.parametrize("reference", ["timm:resnet18", "torchvision:resnet18", "mobilenetv2_050"])
@pytest.mark.parametrize("channels", [1, 3])
def test_library_networks_by_name(reference: str, channels: int) -> None:
    module = create(reference, num_classes=4, in_channels=channels, image_size=(32, 32))
    assert module(torch.zeros(1, channels, 32, 32)).shape == (1, 4)


def test_a_transformer_is_built_for_the_images_there_are() -> None:
    module = create("timm:vit_tiny_patch16_224", num_classes=4, in_channels=3, image_size=(32, 48))
    assert module(torch.zeros(1, 3, 32, 48)).shape == (1, 4)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("cifar-resnet21", "Did you mean 'cifar-resnet20'"),
        ("timm:resnet19", "timm has no model 'resnet19'. Did you mean 'resnet1"),
        ("torchvision:resnet19", "torchvision has no classification model 'resnet19'"),
        ("torchvision:maskrcnn_resnet50_fpn", "no classification model"),
        ("nowhere/net.py:make", "There is no file 'nowhere/net.py'"),
        ("nowhere/net.py", "does not say which function"),
        ("weights.pth", "is a pickle"),
        ("weights.safetensors", "without their network"),
    ],
)
def test_references_that_lead_nowhere_say_what_is_known(reference: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        create(reference, num_classes=10, in_channels=3, image_size=(32, 32))


def test_a_size_that_a_transformer_cannot_have() -> None:
    with pytest.raises(ModelError, match=r"timm cannot build 'xcit_nano_12_p16_224'.*30x40 pixels"):
        create("timm:xcit_nano_12_p16_224", num_classes=4, in_channels=3, image_size=(30, 40))


def test_too_small_an_image_is_refused() -> None:
    with pytest.raises(ModelError, match="at least 16x16 pixels, got 32x8"):
        create("fastnet", num_classes=10, in_channels=3, image_size=(32, 8))


FACTORY = """
import torch
calls = []
def plain(num_classes, in_channels):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(num_classes))
def all_of_them(**kwargs):
    assert sorted(kwargs) == ["image_size", "in_channels", "num_classes"], kwargs
    return torch.nn.Linear(1, kwargs["num_classes"])
def none():
    return torch.nn.Linear(1, 5)
def fails(num_classes):
    raise RuntimeError("the factory is out of order")
def no_module():
    return {"state_dict": 1}
a_value = 3
"""


@pytest.fixture
def factory_file(tmp_path: Path) -> Path:
    path = tmp_path / "net.py"
    path.write_text(FACTORY)
    return path


@pytest.mark.parametrize("name", ["plain", "all_of_them", "none"])
def test_factory_gets_what_its_signature_names(factory_file: Path, name: str) -> None:
    module = create(f"{factory_file}:{name}", num_classes=5, in_channels=1, image_size=(4, 4))
    assert isinstance(module, nn.Module)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "has no 'missing'. It has: all_of_them, fails, no_module, none, plain"),
        ("fails", "RuntimeError: the factory is out of order"),
        ("no_module", "gave dict, not a torch.nn.Module"),
        ("a_value", "is int, not a function"),
    ],
)
def test_factories_that_do_not_work_say_why(factory_file: Path, name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        create(f"{factory_file}:{name}", num_classes=5, in_channels=1, image_size=(4, 4))


def test_a_file_that_does_not_run_says_why(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("import torch\nraise SystemExit(3)\n")
    with pytest.raises(ModelError, match=r"broken.py' failed: SystemExit: 3"):
        create(f"{path}:make", num_classes=5, in_channels=1, image_size=(4, 4))


def test_fastnet_whitens_its_input_once() -> None:
    module = create("fastnet", num_classes=10, in_channels=3, image_size=(32, 32))
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(64, 3, 32, 32, generator=generator)
    images = images + 0.5 * images.roll(1, 3)  # neighbours resemble each other
    module.prepare(images)
    with torch.no_grad():
        out = module.whiten(images).transpose(0, 1).flatten(1).double()
    half = len(out) // 2
    moment = out[:half] @ out[:half].T / out.shape[1]
    assert torch.allclose(moment, torch.eye(half, dtype=torch.float64), atol=0.02)
    assert torch.equal(out[:half], -out[half:])
    before = module.whiten.weight.clone()
    module.prepare(torch.rand(8, 3, 32, 32))
    assert torch.equal(module.whiten.weight, before)
