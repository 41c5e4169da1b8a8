"""Batch norm's means and variances measured anew, where weights changed without training."""

from __future__ import annotations

import torch
from torch import nn

from edgevision.data.base import DataSplits
from edgevision.data.loader import BatchLoader
from edgevision.preprocessing import Preprocessing
from edgevision.tasks.base import Task

_BATCH = 100


@torch.no_grad()
def recalibrate_batch_norm(
    module: nn.Module, data: DataSplits, preprocessing: Preprocessing, task: Task, *, images: int
) -> bool:
    """Put the statistics of training images in place of those of before.

    Images are as they are, without augmentation, every batch counts alike, and only batch norm is
    in training mode. The same arguments give the same statistics.

    Args:
        images: this many, rounded up to whole batches, or all where there are fewer.

    Returns:
        Whether the network has a batch norm that keeps statistics; without, nothing is run.
    """
    norms = [
        layer
        for layer in module.modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.track_running_stats
    ]
    if not norms:
        return False
    loader = BatchLoader(data.train, preprocessing, task, _BATCH, seed=0, train=True)
    modes = {layer: layer.training for layer in module.modules()}
    before = [norm.momentum for norm in norms]
    device = next(module.parameters()).device
    module.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over batches
        norm.train()
    seen = 0
    for batch, _ in loader:
        # In channels-last, sums over millions of places run in float32 and lose a percent.
        module(batch.contiguous().to(device))
        seen += len(batch)
        if seen >= images:
            break
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    for layer, mode in modes.items():
        layer.training = mode
    return True
