"""The families of our own: each is one file of this package and one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from edgevision.registry import Registry

Build = Callable[[int, int, tuple[int, int]], nn.Module]


@dataclass(frozen=True)
class Family:
    """One network of our own.

    Attributes:
        build: ``(num_classes, in_channels, (height, width))`` to the untrained network.
        summary: one line for lists.
        smallest: least height and width of the input in pixels.
        recipe: fields of ``TrainConfig`` that differ from its defaults and suit this network.
    """

    build: Build
    summary: str
    smallest: int
    recipe: Mapping[str, Any] = field(default_factory=dict)


FAMILIES: Registry[Family] = Registry("model family")
FAMILIES.add("plain-cnn", "edgevision.models.plain_cnn:PLAIN_CNN")
FAMILIES.add("cifar-resnet8", "edgevision.models.cifar_resnet:RESNET8")
FAMILIES.add("cifar-resnet20", "edgevision.models.cifar_resnet:RESNET20")
FAMILIES.add("cifar-resnet56", "edgevision.models.cifar_resnet:RESNET56")
FAMILIES.add("fastnet", "edgevision.models.fastnet:FASTNET")
