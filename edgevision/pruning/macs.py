"""Count multiply-accumulates and parameters, whole and per layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Count:
    """MACs of one image and parameters of a network.

    ``layer_macs`` and ``layer_params`` hold every module that has weights of its own, by name.
    MACs of matrix products outside such modules (attention) are in ``macs`` only.
    """

    macs: int
    params: int
    layer_macs: Mapping[str, int]
    layer_params: Mapping[str, int]


def count(module: nn.Module, example: torch.Tensor) -> Count:
    """Run ``example`` (float32 NCHW, batch 1) once and count.

    A MAC is one multiplication with its addition: convolutions, matrix products and attention.
    Biases, norms and activations add no MACs. torch's own counter is used, which counts two
    operations (FLOPs) for each MAC. A weight that is shared counts once as a parameter, and its
    MACs count for each use. The module's mode stays as it is; run it in eval mode.
    """
    names = [name for name, child in module.named_modules() if _own_parameters(child)]
    # The counter trips over what no_grad makes of parameters that are passed on as they are.
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    # The fused attention kernel hides its matrix products from the counter.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            module(example)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for parameter in trained:
            parameter.requires_grad_(True)
    flops = counter.get_flop_counts()
    root = type(module).__name__
    layer_macs = {
        name: sum(flops.get(f"{root}.{name}" if name else root, {}).values()) // 2 for name in names
    }
    layer_params = {
        name: sum(p.numel() for p in module.get_submodule(name).parameters(recurse=False))
        for name in names
    }
    return Count(
        macs=counter.get_total_flops() // 2,
        params=sum(parameter.numel() for parameter in module.parameters()),
        layer_macs=layer_macs,
        layer_params=layer_params,
    )


def _own_parameters(module: nn.Module) -> bool:
    return next(module.parameters(recurse=False), None) is not None
