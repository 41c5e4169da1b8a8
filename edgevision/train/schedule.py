"""Learning rate over the run, as a factor of its peak."""

from __future__ import annotations

import math


def rate(schedule: str, warmup: float, step: int, steps: int) -> float:
    """Factor in [0, 1] at ``step`` (from 0) of ``steps``.

    It rises linearly over the first ``warmup`` share of the steps, then follows ``schedule``:
    ``"one-cycle"`` falls linearly to zero, ``"cosine"`` along half a cosine, ``"constant"`` stays.
    """
    rising = warmup * steps
    if step + 1 <= rising:
        return (step + 1) / rising
    done = (step - rising) / max(1.0, steps - rising)
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return 1 - done
