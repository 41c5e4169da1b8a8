"""A plain CNN: convolutions, batch norm, pooling and a hidden linear layer; nothing else."""

from __future__ import annotations

from torch import Tensor, nn

from edgevision.models.families import Family


class PlainCnn(nn.Module):
    """Three blocks of Conv-BN-ReLU-MaxPool, then two linear layers.

    Input (N, C, H, W) float32, output (N, num_classes) logits.
    """

    def __init__(self, num_classes: int, in_channels: int, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        last = in_channels
        for channels in (width, 2 * width, 4 * width):
            layers += [
                nn.Conv2d(last, channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(2),
            ]
            last = channels
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.hidden = nn.Linear(last, last)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(last, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.pool(self.features(images)).flatten(1)
        logits: Tensor = self.head(self.relu(self.hidden(features)))
        return logits


PLAIN_CNN = Family(
    build=lambda num_classes, in_channels, _: PlainCnn(num_classes, in_channels),
    summary="three plain convolution blocks and two linear layers, 0.1 M parameters",
    smallest=8,
    recipe={
        "epochs": 20,
        "batch_size": 128,
        "optimizer": "muon",
        "learning_rate": 0.05,
        "weight_decay": 5e-4,
        "muon_learning_rate": 0.025,
        "label_smoothing": 0.1,
        "augment": {"flip": "alternating", "crop_padding": 2},
    },
)
