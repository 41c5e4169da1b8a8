"""A training run on disk: one safetensors file whose header holds the JSON part.

One file, so that weights, optimizer and position always belong together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from edgevision.errors import ModelError, UsageError
from edgevision.models.checkpoint import load_tensors, save_tensors

RUN_FILE = "training.safetensors"
_HEADER = "edgevision"


def save_run(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write a run's state; the file appears whole or not at all."""
    save_tensors(path, dict(tensors), {_HEADER: json.dumps(facts, sort_keys=True)})


def load_facts(path: Path) -> dict[str, Any] | None:
    """The JSON part of a run's state, None where there is no file.

    Raises:
        ModelError: the file is damaged or not a run of ours.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            facts: dict[str, Any] = json.loads((file.metadata() or {})[_HEADER])
    except (SafetensorError, KeyError, ValueError) as error:
        raise ModelError(
            f"'{path}' is damaged or no training state: {error}.",
            hint="Remove the file to start the training anew.",
        ) from error
    return facts


def refusal(path: Path, theirs: Mapping[str, Any] | None, ours: Mapping[str, Any]) -> UsageError:
    """Why the state ``path`` is not carried on.

    Args:
        theirs: what the state's run depends on; None in a state that does not tell.
        ours: the same of the run that was asked for.
    """
    parts = []
    for name in ours if theirs else ():
        then, now = (theirs or {}).get(name), ours[name]
        if then == now:
            continue
        if isinstance(then, dict) and isinstance(now, dict):
            parts += [
                f"{key} {then.get(key)} there, {now.get(key)} asked for"
                for key in sorted(then.keys() | now.keys())
                if then.get(key) != now.get(key)
            ]
        elif name in ("world_size", "task", "sparse_strength"):
            parts.append(f"{name} {then} there, {now} asked for")
        else:
            parts.append({"start": "the weights at the start"}.get(name, f"the {name}"))
    told = "; ".join(parts) or "its settings, its data or its weights at the start"
    return UsageError(
        f"'{path}' is the state of another training, which would be overwritten. "
        f"What differs: {told}.",
        hint="Write to another folder (--out), ask for the settings that it began with, or delete "
        "the file to start anew.",
    )


def load_run(path: Path) -> dict[str, Tensor]:
    """The tensors of a run's state."""
    return load_tensors(path)


def optimizer_state(
    optimizer: torch.optim.Optimizer, prefix: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What an optimizer has gathered, as tensors by name and plain values."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for number, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            key = f"{prefix}.{number}.{name}"
            if isinstance(value, Tensor):
                tensors[key] = value
            else:
                plain[key] = value
    return tensors, plain


def restore_optimizer(
    optimizer: torch.optim.Optimizer,
    prefix: str,
    tensors: Mapping[str, Tensor],
    plain: Mapping[str, Any],
) -> None:
    """Undo ``optimizer_state`` on a fresh optimizer over the same weights."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in [*tensors.items(), *plain.items()]:
        if key.startswith(f"{prefix}."):
            number, _, name = key[len(prefix) + 1 :].partition(".")
            state.setdefault(int(number), {})[name] = value
    current = optimizer.state_dict()
    optimizer.load_state_dict({"state": state, "param_groups": current["param_groups"]})


def module_digest(module: nn.Module) -> str:
    """sha256 hex over the names and values of a network's weights and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
