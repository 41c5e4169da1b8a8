"""Device, processes and precision of a run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning_utilities.core import rank_zero
from torch import nn

from edgevision.errors import UsageError
from edgevision.train.config import TrainConfig


def make_fabric(config: TrainConfig, module: nn.Module) -> tuple[Fabric, str]:
    """The Fabric of a run of ``module`` and its precision, ``"fp32"`` or ``"bf16"``.

    Raises:
        UsageError: a CUDA device is asked for where there is none.
    """
    # What it announces there (precision, devices) is in the run's own report.
    rank_zero.log.setLevel(logging.WARNING)
    has_cuda = torch.cuda.is_available()
    if config.accelerator == "cuda" and not has_cuda:
        raise UsageError(
            "accelerator is 'cuda', but torch finds no CUDA device here.",
            hint="Leave accelerator at 'auto' to train on the CPU.",
        )
    device = "cuda" if has_cuda and config.accelerator != "cpu" else "cpu"
    precision = config.precision
    if precision == "auto":
        slower = device == "cpu" and has_grouped_convolutions(module)
        precision = "bf16" if computes_bf16(device) and not slower else "fp32"
    strategy: Any = config.strategy
    if strategy == "auto" and config.devices * config.num_nodes > 1:
        strategy = "ddp"
    if strategy.startswith("ddp") and config.freeze_epochs:
        # Frozen weights get no gradient; without this the processes would wait for them.
        strategy += "_find_unused_parameters_true"
    # It announces its precision in every run; the checkpoint records that.
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    fabric = Fabric(
        accelerator=device,
        devices=config.devices,
        num_nodes=config.num_nodes,
        strategy=strategy,
        precision="bf16-mixed" if precision == "bf16" else "32-true",
    )
    return fabric, precision


def computes_bf16(device: str) -> bool:
    """Whether the device has instructions for bf16; emulated, it is slower than fp32."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and _cpu_has_bf16()


def takes_channels_last(module: nn.Module, device: str) -> bool:
    """Whether ``module`` may be trained with channels last.

    On CPUs the backward pass of a strided 1x1 convolution over fewer than 16 channels writes
    outside its buffers then (PyTorch 2.15): pruned residual networks have such shortcuts.
    """
    return device != "cpu" or not any(
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (1, 1)
        and max(layer.stride) > 1
        and layer.in_channels < 16
        for layer in module.modules()
    )


def has_grouped_convolutions(module: nn.Module) -> bool:
    """Whether ``module`` has any; CPUs train those, depthwise ones above all, slower in bf16."""
    return any(
        layer.groups > 1
        for layer in module.modules()
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    )


def _cpu_has_bf16() -> bool:
    facts = Path("/proc/cpuinfo")
    if not facts.is_file():
        return False
    text = facts.read_text(errors="replace")
    return any(name in text for name in ("avx512_bf16", "amx_bf16", "bf16 "))
