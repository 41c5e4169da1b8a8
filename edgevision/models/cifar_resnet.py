"""CIFAR ResNets of depth 6n + 2: three stages of n basic blocks with 16, 32 and 64 channels.

He et al., Deep Residual Learning for Image Recognition, 2015, section 4.2; with a 1x1
convolution on the shortcut where the shape changes, so that every shortcut can be pruned.
"""

from __future__ import annotations

from torch import Tensor, nn

from edgevision.models.families import Family


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False),
                nn.BatchNorm2d(channels),
            )
        self.relu2 = nn.ReLU(inplace=True)

    def forward(self, images: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(images)))
        out = self.bn2(self.conv2(out)) + self.shortcut(images)
        result: Tensor = self.relu2(out)
        return result


class CifarResNet(nn.Module):
    """ResNet for small images. Input (N, C, H, W) float32, output (N, num_classes) logits."""

    def __init__(self, depth: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        blocks_per_stage, rest = divmod(depth - 2, 6)
        if rest or blocks_per_stage < 1:
            raise ValueError(f"depth must be 6n + 2, got {depth}")
        self.conv = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        blocks: list[nn.Module] = []
        last = 16
        for channels in (16, 32, 64):
            for index in range(blocks_per_stage):
                stride = 2 if index == 0 and channels != 16 else 1
                blocks.append(BasicBlock(last, channels, stride))
                last = channels
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(last, num_classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        out = self.blocks(self.relu(self.bn(self.conv(images))))
        logits: Tensor = self.head(self.pool(out).flatten(1))
        return logits


def _family(depth: int, size: str, epochs: int) -> Family:
    return Family(
        build=lambda num_classes, in_channels, _: CifarResNet(depth, num_classes, in_channels),
        summary=f"ResNet-{depth} for small images, {size} parameters",
        smallest=8,
        recipe={
            "epochs": epochs,
            "batch_size": 256,
            "optimizer": "muon",
            "muon_learning_rate": 0.025,
            "learning_rate": 0.05,
            "weight_decay": 5e-4,
            "augment": {"flip": "alternating", "crop_padding": 3},
            "evaluate_every": 2,
        },
    )


RESNET8 = _family(8, "0.08 M", 20)
RESNET20 = _family(20, "0.27 M", 28)
RESNET56 = _family(56, "0.86 M", 30)
