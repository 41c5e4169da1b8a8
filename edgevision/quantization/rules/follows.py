"""Operators that the target fuses or moves Q/DQ across by itself."""

from __future__ import annotations

import onnx

from edgevision.quantization.rules.base import Outcome, Placer


def follows(node: onnx.NodeProto, placer: Placer) -> Outcome:
    """Place nothing: the neighbours decide."""
    return Outcome.FOLLOWS
