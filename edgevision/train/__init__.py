"""Training and evaluation of networks in torch."""

from __future__ import annotations

from edgevision.train.config import TrainConfig, default_config, override
from edgevision.train.evaluate import evaluate
from edgevision.train.loop import fit
from edgevision.train.results import Progress, TrainResult
from edgevision.train.statistics import recalibrate_batch_norm

__all__ = [
    "Progress",
    "TrainConfig",
    "TrainResult",
    "default_config",
    "evaluate",
    "fit",
    "override",
    "recalibrate_batch_norm",
]
