"""The mean of several trainings' weights: one network, flatter and usually better than each.

Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, 2018: networks
at the ends of learning-rate cycles that began in one another lie in one basin, and their mean lies
nearer its middle. Batch norm statistics are measured anew, since means of activations are not
activations of means.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from edgevision.data import DataSplits
from edgevision.errors import ModelError, UsageError
from edgevision.models.checkpoint import load_checkpoint, save_checkpoint
from edgevision.tasks import get_task
from edgevision.train.evaluate import evaluate
from edgevision.train.statistics import recalibrate_batch_norm

_STATISTICS_IMAGES = 10_000


def average_checkpoints(folders: Sequence[Path], data: DataSplits, out: Path) -> dict[str, float]:
    """Write the mean of the checkpoints in ``folders`` to ``out``; its validation figures.

    Args:
        folders: of one network, each trained on from the one before.
        data: whose first training images, as they are, give the batch norm statistics.

    Raises:
        UsageError: fewer than two folders.
        ModelError: a checkpoint cannot be used, or they are of different networks.
    """
    if len(folders) < 2:
        raise UsageError(f"An average wants two checkpoints or more, got {len(folders)}.")
    loaded = [load_checkpoint(folder) for folder in folders]
    module, card = loaded[-1]
    states = [other.state_dict() for other, _ in loaded]
    for folder, state in zip(folders, states, strict=True):
        if {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in states[-1].items()}:
            raise ModelError(f"{folder} holds another network than {folders[-1]}.")
    module.load_state_dict({name: _mean([s[name] for s in states]) for name in states[-1]})
    preprocessing, task = card.as_preprocessing(), get_task(card.task)
    module.eval()
    recalibrate_batch_norm(module, data, preprocessing, task, images=_STATISTICS_IMAGES)
    metrics = evaluate(module, data.validation, preprocessing, task)
    lineage = {**card.lineage, "average_of": [str(folder) for folder in folders]}
    save_checkpoint(out, module, card.model_copy(update={"metrics": metrics, "lineage": lineage}))
    return metrics


def _mean(tensors: list[Tensor]) -> Tensor:
    if not tensors[-1].is_floating_point():
        return tensors[-1]
    return torch.stack(tensors).mean(0)
