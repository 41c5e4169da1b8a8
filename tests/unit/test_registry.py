from __future__ import annotations

import pytest

from edgevision.errors import UsageError
from edgevision.registry import Registry


def make() -> Registry[type]:
    registry: Registry[type] = Registry("backend")
    registry.add("onnxruntime", "collections:OrderedDict")
    return registry


def test_a_component_loads_when_it_is_asked_for() -> None:
    from collections import OrderedDict

    assert make().get("onnxruntime") is OrderedDict


def test_an_unknown_name_lists_the_known_and_guesses_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"Did you mean 'onnxruntime'\? Known: onnxruntime"):
        make().get("onnxruntme")


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="already registered at collections:OrderedDict"):
        make().add("onnxruntime", "collections:Counter")


def test_a_place_without_attribute_is_refused() -> None:
    with pytest.raises(ValueError, match="module:attribute"):
        make().add("other", "collections")


def test_names_are_sorted_and_removed_ones_are_gone() -> None:
    registry = make()
    registry.add("alpha", "collections:Counter")
    assert list(registry) == ["alpha", "onnxruntime"]
    registry.remove("alpha")
    assert "alpha" not in registry
