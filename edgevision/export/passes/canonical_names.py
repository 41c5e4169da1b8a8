"""Number the nodes: exporters draw names from counters that depend on what ran before."""

from __future__ import annotations

from collections import Counter

import onnx


def canonical_names(model: onnx.ModelProto) -> int:
    """Name each node after its operator and its number among them, e.g. ``Conv_0``."""
    seen: Counter[str] = Counter()
    changed = 0
    for node in model.graph.node:
        name = f"{node.op_type}_{seen[node.op_type]}"
        seen[node.op_type] += 1
        changed += node.name != name
        node.name = name
    return changed
