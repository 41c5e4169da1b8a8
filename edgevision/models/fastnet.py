"""A fast strong network for small images, in plain Conv-BN-ReLU-MaxPool.

After Keller Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU (airbench, 2024): a frozen
2x2 convolution that whitens the image's patches, then three blocks of two convolutions that start
as identities. Changed for INT8 deployment: ReLU instead of GELU, batch norm straight after the
convolution so that it folds, an unscaled head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgevision.models.families import Family

_WHITEN_EPSILON = 5e-4  # variance floor of a direction, in normalized pixels squared
_WHITEN_IMAGES = 5000
_HEAD_SCALE = 0.1  # of the first logits: identities pass large values on, and the rates are high


class FastNet(nn.Module):
    """Input (N, C, H, W) float32, output (N, num_classes) logits.

    The first convolution is data dependent: ``prepare`` must see training images once before
    training. The buffer ``prepared`` is stored with the weights, so a trained network stays.
    """

    prepared: Tensor

    def __init__(
        self, num_classes: int, in_channels: int, widths: tuple[int, ...] = (96, 320, 320)
    ) -> None:
        super().__init__()
        directions = 4 * in_channels
        self.whiten = nn.Conv2d(in_channels, 2 * directions, 2)
        self.whiten.weight.requires_grad_(False)
        nn.init.zeros_(self.whiten.bias)  # type: ignore[arg-type]
        self.relu = nn.ReLU(inplace=True)
        layers: list[nn.Module] = []
        last = 2 * directions
        for width in widths:
            layers += [*_conv(last, width), nn.MaxPool2d(2), *_conv(width, width)]
            last = width
        self.blocks = nn.Sequential(*layers)
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.head = nn.Linear(last, num_classes)
        with torch.no_grad():
            self.head.weight.mul_(_HEAD_SCALE)
        self.register_buffer("prepared", torch.zeros((), dtype=torch.bool))

    def forward(self, images: Tensor) -> Tensor:
        out = self.blocks(self.relu(self.whiten(images)))
        logits: Tensor = self.head(self.pool(out).flatten(1))
        return logits

    @torch.no_grad()
    def prepare(self, images: Tensor) -> None:
        """Set the first convolution from (N, C, H, W) float32 normalized training images.

        Its filters are the eigenvectors of the 2x2 patches' covariance divided by the square root
        of their eigenvalues, and the same negated. Does nothing on a prepared network.
        """
        if self.prepared:
            return
        patches = nn.functional.unfold(images[:_WHITEN_IMAGES].float(), 2)
        patches = patches.transpose(1, 2).flatten(0, 1).double()
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (vectors / torch.sqrt(values.clamp_min(0) + _WHITEN_EPSILON)).T
        shape = (len(filters), *self.whiten.weight.shape[1:])
        filters = filters.flip(0).reshape(shape).to(self.whiten.weight)
        self.whiten.weight.copy_(torch.cat([filters, -filters]))
        self.prepared.fill_(True)


def _conv(channels_in: int, channels: int) -> list[nn.Module]:
    conv = nn.Conv2d(channels_in, channels, 3, padding=1, bias=False)
    with torch.no_grad():
        nn.init.dirac_(conv.weight[:channels_in])
    return [conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]


FASTNET = Family(
    build=lambda num_classes, in_channels, _: FastNet(num_classes, in_channels),
    summary="whitened input and six wide 3x3 convolutions, 3.1 M parameters",
    smallest=16,
    recipe={
        "epochs": 20,
        "batch_size": 256,
        "optimizer": "muon",
        "muon_learning_rate": 0.02,
        "learning_rate": 0.2,
        "weight_decay": 5e-4,
        "label_smoothing": 0.2,
        "augment": {"flip": "alternating", "crop_padding": 2},
        "evaluate_every": 4,
    },
)
