"""Which optimizer moves which weight."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgevision.train.config import TrainConfig
from edgevision.train.muon import Muon


def make_optimizers(
    module: nn.Module, heads: list[nn.Module], config: TrainConfig
) -> list[torch.optim.Optimizer]:
    """One or two optimizers over all weights that want a gradient, in a fixed order."""
    filters = _filters(module, heads) if config.optimizer == "muon" else []
    chosen = {id(weight) for weight in filters}
    rest = [p for p in module.parameters() if p.requires_grad and id(p) not in chosen]
    matrices = [p for p in rest if p.ndim > 1]
    vectors = [p for p in rest if p.ndim <= 1]
    # Scales and biases are not decayed: they are few, and decay would only distort them.
    groups = [
        {"params": params, "weight_decay": decay}
        for params, decay in ((matrices, config.weight_decay), (vectors, 0.0))
        if params
    ]
    optimizers: list[torch.optim.Optimizer] = []
    if filters:
        optimizers.append(Muon(filters, lr=config.muon_learning_rate, momentum=config.momentum))
    if groups and config.optimizer == "adamw":
        optimizers.append(torch.optim.AdamW(groups, lr=config.learning_rate))
    elif groups:
        optimizers.append(
            torch.optim.SGD(
                groups,
                lr=config.learning_rate,
                momentum=config.momentum,
                nesterov=config.momentum > 0,
            )
        )
    return optimizers


def _filters(module: nn.Module, heads: list[nn.Module]) -> list[Tensor]:
    """Weights of full convolutions without bias: those have a normalization behind them."""
    return [
        layer.weight
        for layer in module.modules()
        if isinstance(layer, nn.Conv2d)
        and layer.bias is None
        and layer.groups == 1
        and layer.weight.requires_grad
        and not any(layer is head for head in heads)
    ]
