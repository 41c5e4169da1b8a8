"""Structured pruning over torch-pruning's dependency graph."""

from edgevision.pruning.config import PruneConfig
from edgevision.pruning.macs import Count, count
from edgevision.pruning.pruner import PruneResult, prune
from edgevision.pruning.structure import rebuild, structure_of
from edgevision.pruning.table import PruneRow, PruneTable

__all__ = [
    "Count",
    "PruneConfig",
    "PruneResult",
    "PruneRow",
    "PruneTable",
    "count",
    "prune",
    "rebuild",
    "structure_of",
]
