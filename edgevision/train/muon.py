"""Muon for convolution filters.

Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024: the momentum of a
weight matrix is replaced by its nearest semi-orthogonal matrix, found by Newton-Schulz iteration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_A, _B, _C = 3.4445, -4.7750, 2.0315  # quintic whose iteration lifts all singular values to ~1


class Muon(torch.optim.Optimizer):
    """Keeps each weight's norm; ``lr`` is the relative size of one step.

    For weights with a normalization behind them, whose scale has no effect: a step of ``lr`` turns
    the weight by about ``lr`` radians, and it needs no weight decay.

    Args:
        params: weights of 2 or more dimensions; the first is the output.
        lr: Frobenius norm of a step divided by that of the weight.
        momentum: Nesterov momentum of the gradient.
        steps: Newton-Schulz iterations.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float, momentum: float = 0.9, steps: int = 3
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "steps": steps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Apply one step; weights without gradient stay."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, weight.grad, group)
        return loss

    def _update(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state["average"] = torch.zeros_like(weight)
            state["norm"] = weight.norm()
        average, norm = state["average"], state["norm"]
        average.mul_(group["momentum"]).add_(gradient)
        direction = gradient.add(average, alpha=group["momentum"])
        matrix = orthogonalized(direction.flatten(1), group["steps"])
        update = matrix.view(direction.shape)
        weight.add_(update * (norm / update.norm().clamp_min(1e-12)), alpha=-group["lr"])
        weight.mul_(norm / weight.norm().clamp_min(1e-12))


def orthogonalized(matrix: Tensor, steps: int) -> Tensor:
    """About U V^T of ``matrix`` = U S V^T, (rows, columns), in float32.

    Newton-Schulz on the Gram matrix of the shorter side: the same polynomial of ``matrix`` as the
    iteration on the matrix itself, with two large products in place of two a step.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    short = (matrix.T if tall else matrix).float()
    short = short / short.norm().clamp_min(1e-12)
    gram = short @ short.T
    total = None
    for _ in range(steps):
        factor = _B * gram + _C * (gram @ gram)
        factor.diagonal().add_(_A)
        total = factor if total is None else factor @ total
        gram = factor @ gram @ factor
    result: Tensor = short if total is None else total @ short
    return result.T if tall else result
