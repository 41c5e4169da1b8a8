"""Placement rules, by name, one family a file. A scheme's YAML gives each operator its rule."""

from __future__ import annotations

from edgevision.quantization.rules.base import Placer, Rule
from edgevision.registry import Registry

RULES: Registry[Rule] = Registry("placement rule")
RULES.add("weighted", "edgevision.quantization.rules.weighted:weighted")
RULES.add("residual", "edgevision.quantization.rules.residual:residual")
RULES.add("elementwise", "edgevision.quantization.rules.elementwise:elementwise")
RULES.add("pooling", "edgevision.quantization.rules.pooling:pooling")
RULES.add("concat", "edgevision.quantization.rules.concat:concat")
RULES.add("constant_weighted", "edgevision.quantization.rules.constant_weighted:constant_weighted")
RULES.add("commuting", "edgevision.quantization.rules.commuting:commuting")
RULES.add("follows", "edgevision.quantization.rules.follows:follows")

__all__ = ["RULES", "Placer", "Rule"]
