"""Graph passes, one a file. Each takes a model, changes it in place, returns how many times.

None changes what the network computes beyond float32 rounding; the order below is the one in
which they find the most to do.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx

from edgevision.export.passes.canonical_names import canonical_names
from edgevision.export.passes.constants import constants_to_initializers
from edgevision.export.passes.fold_batchnorm import fold_batchnorm
from edgevision.export.passes.global_pool import reduce_to_pool
from edgevision.export.passes.identity import drop_identities
from edgevision.export.passes.relu_before_pool import relu_before_pool
from edgevision.export.passes.strip_metadata import strip_metadata
from edgevision.export.passes.unused import drop_unused

Pass = Callable[[onnx.ModelProto], int]

PASSES: tuple[Pass, ...] = (
    constants_to_initializers,
    drop_identities,
    fold_batchnorm,
    reduce_to_pool,
    relu_before_pool,
    drop_unused,
    strip_metadata,
    canonical_names,
)


def run_passes(model: onnx.ModelProto) -> dict[str, int]:
    """Run all passes over ``model`` in place; how often each changed something, by name."""
    return {each.__name__: each(model) for each in PASSES}


__all__ = ["PASSES", "Pass", "fold_batchnorm", "run_passes"]
