"""Data sets known by name. A new one is its file and one line here."""

from __future__ import annotations

from edgevision.data.builtin.base import BuiltinData
from edgevision.registry import Registry

BUILTIN: Registry[type[BuiltinData]] = Registry("data set")
BUILTIN.add("fashion-mnist-mini", "edgevision.data.builtin.fashion_mnist_mini:FashionMnistMini")
BUILTIN.add("fashion-mnist", "edgevision.data.builtin.fashion_mnist:FashionMnist")
BUILTIN.add("cifar10", "edgevision.data.builtin.cifar10:Cifar10")
