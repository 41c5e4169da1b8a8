"""MACs by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgevision.models import create
from edgevision.pruning import count


def test_layers_by_hand() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),  # 16x16 out: 256 * 8 * 27
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),  # 256 * 8 * 9
        nn.ConvTranspose2d(8, 4, 2, stride=2),  # every input feeds 4 outputs of each channel
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 10),
    ).eval()
    found = count(module, torch.zeros(1, 3, 32, 32))
    assert found.layer_macs == {
        "0": 256 * 8 * 27,
        "1": 0,
        "3": 256 * 8 * 9,
        "4": 256 * 8 * 4 * 4,
        "7": 40,
    }
    assert found.macs == sum(found.layer_macs.values())
    assert found.layer_params == {"0": 224, "1": 16, "3": 72, "4": 132, "7": 50}
    assert found.params == sum(found.layer_params.values())


def test_a_layer_used_twice_counts_its_macs_twice() -> None:
    layer = nn.Conv2d(4, 4, 1, bias=False)
    found = count(nn.Sequential(layer, layer).eval(), torch.zeros(1, 4, 5, 5))
    assert found.macs == 2 * 25 * 16
    assert found.params == 16


@pytest.mark.parametrize("fast_path", [True, False])
def test_attention_counts_its_matrix_products(fast_path: bool) -> None:
    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.attention(x, x, x, need_weights=False)[0]

    torch.backends.mha.set_fastpath_enabled(fast_path)
    try:
        found = count(Attend().eval(), torch.zeros(1, 10, 16))
        assert torch.backends.mha.get_fastpath_enabled() is fast_path
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    # Queries, keys, values and output 16x16 each, then scores and their product with the values.
    assert found.macs == 10 * 16 * 16 * 4 + 2 * 10 * 10 * 16


@pytest.mark.parametrize(
    ("reference", "size", "macs", "params"),
    [
        # torchvision's model pages: 1.81 GFLOPS, 11 689 512; 0.30 GFLOPS, 3 504 872.
        ("torchvision:resnet18", 224, 1_814_073_344, 11_689_512),
        ("torchvision:mobilenet_v2", 224, 300_774_272, 3_504_872),
    ],
)
def test_known_networks(reference: str, size: int, macs: int, params: int) -> None:
    module = create(reference, num_classes=1000, in_channels=3, image_size=(size, size)).eval()
    found = count(module, torch.zeros(1, 3, size, size))
    assert (found.macs, found.params) == (macs, params)
