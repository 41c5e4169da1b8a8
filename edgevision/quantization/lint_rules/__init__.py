"""Lint rules, by name; a scheme's YAML lists those that count for it."""

from __future__ import annotations

from edgevision.quantization.lint_rules.base import Finding, LintRule, QdqGraph
from edgevision.registry import Registry

LINT_RULES: Registry[LintRule] = Registry("lint rule")
_NUMBERS = "edgevision.quantization.lint_rules.numbers"
_PLACEMENT = "edgevision.quantization.lint_rules.placement"
LINT_RULES.add("scale", f"{_NUMBERS}:scale")
LINT_RULES.add("integer-width", f"{_NUMBERS}:integer_width")
LINT_RULES.add("activation-dtype", f"{_NUMBERS}:activation_dtype")
LINT_RULES.add("activation-zero-point", f"{_NUMBERS}:activation_zero_point")
LINT_RULES.add("weight-dtype", f"{_NUMBERS}:weight_dtype")
LINT_RULES.add("weight-zero-point", f"{_NUMBERS}:weight_zero_point")
LINT_RULES.add("weight-range", f"{_NUMBERS}:weight_range")
LINT_RULES.add("weight-rounding", f"{_NUMBERS}:weight_rounding")
LINT_RULES.add("weight-axis", f"{_NUMBERS}:weight_axis")
LINT_RULES.add("float-bias", f"{_NUMBERS}:float_bias")
LINT_RULES.add("int32-bias", f"{_NUMBERS}:int32_bias")
LINT_RULES.add("half-quantized", f"{_PLACEMENT}:half_quantized")
LINT_RULES.add("before-activation", f"{_PLACEMENT}:before_activation")
LINT_RULES.add("before-resize", f"{_PLACEMENT}:before_resize")
LINT_RULES.add("both-add-branches", f"{_PLACEMENT}:both_add_branches")
LINT_RULES.add("concat-scales", f"{_PLACEMENT}:concat_scales")
LINT_RULES.add("output-not-quantized", f"{_PLACEMENT}:output_not_quantized")

__all__ = ["LINT_RULES", "Finding", "LintRule", "QdqGraph"]
