"""Layers with constant weights, on targets that gain nothing from products of activations."""

from __future__ import annotations

import onnx

from edgevision.quantization.rules.base import Outcome, Placer, Refusal
from edgevision.quantization.rules.weighted import weighted


def constant_weighted(node: onnx.NodeProto, placer: Placer) -> Outcome | Refusal:
    """As ``weighted``, but a product of two activations stays in float, as in attention."""
    if not placer.has_constant(node):
        return Refusal("a product of two activations, which integers make no faster here")
    return weighted(node, placer)
