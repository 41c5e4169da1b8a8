"""Training and evaluation of networks in torch."""

from __future__ import annotations

from edgevision.train.config import TrainConfig, default_config, override
from edgevision.train.evaluate import evaluate
from edgevision.train.loop import Progress, TrainResult, fit

__all__ = [
    "Progress",
    "TrainConfig",
    "TrainResult",
    "default_config",
    "evaluate",
    "fit",
    "override",
]
