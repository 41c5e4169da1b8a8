"""Widths that lose the least within a time: a search over all groups together.

Loss is a sum over groups; time is not, since a layer's work is the product of its two sides. For a
price of time (a Lagrange multiplier) each group in turn takes the width with the least loss + price
x time, the others as they are, until none changes; the price is found by bisection. That leaves
gaps between the choices that any price gives, which exchanges fill: one group wider, another
narrower, as long as the loss falls and the time stays within the limit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Times = Callable[[Ints], Float64]

_SWEEPS = 30
_BISECTIONS = 40
_EXCHANGES = 500
_STARTS = 4
_STEPS = (1, 2, 3)


@dataclass(frozen=True)
class LossScale:
    """What the losses of widths are added to.

    Attributes:
        whole: loss of the network as it is.
        blind: of outputs that are zero whatever the image, as a uniform guess over the classes is.
    """

    whole: float
    blind: float


@dataclass(frozen=True)
class Options:
    """Widths that a group may have, the most units first, and the loss that each adds.

    ``scale`` is None where the losses are no more than an order.
    """

    widths: tuple[int, ...]
    losses: tuple[float, ...]
    scale: LossScale | None = None


def search_widths(options: Sequence[Options], times: Times, limit: float) -> list[int] | None:
    """Units that each group keeps.

    Args:
        options: of each group.
        times: from (B, groups) units kept to (B,) times; not smaller for wider groups.
        limit: on the time.

    Returns:
        None where even the narrowest choice takes longer than ``limit``.
    """
    search = _Search(options, times, limit)
    return search.run()


class _Search:
    """Choices are arrays of positions in each group's options, 0 the widest."""

    def __init__(self, options: Sequence[Options], times: Times, limit: float) -> None:
        self.options = options
        self.times = times
        self.limit = limit * (1 + 1e-9)
        self.sizes = np.array([len(option.widths) for option in options])
        self._losses = np.full((len(options), int(self.sizes.max(initial=1))), np.inf)
        for row, option in zip(self._losses, options, strict=True):
            row[: len(option.losses)] = option.losses

    def run(self) -> list[int] | None:
        wide = np.zeros(len(self.options), dtype=np.int64)
        narrow = self.sizes - 1
        if self._time(wide) <= self.limit:
            return self._widths(wide)
        if self._time(narrow) > self.limit:
            return None
        found = [narrow]
        low, high = 0.0, 1e6 * max(self._loss(narrow), 1e-12) / max(self._time(wide), 1e-12)
        start = wide
        for step in range(_BISECTIONS):
            # Prices span many orders of magnitude: halve the exponent first.
            price = np.sqrt(max(low, high * 1e-12) * high) if step < 20 else (low + high) / 2
            choice = self._at_price(start, price)
            if self._time(choice) <= self.limit:
                high = price
                found.append(choice)
            else:
                low, start = price, choice
        found.sort(key=self._loss)
        improved = [self._improved(choice) for choice in [*found[:_STARTS], narrow]]
        return self._widths(min(improved, key=self._loss))

    def _at_price(self, start: Ints, price: float) -> Ints:
        choice: Ints = start.copy()
        for _ in range(_SWEEPS):
            before = choice.copy()
            for group, option in enumerate(self.options):
                rows = np.repeat(choice[None], len(option.widths), axis=0)
                rows[:, group] = np.arange(len(option.widths))
                cost = np.array(option.losses) + price * self._times(rows)
                choice[group] = int(cost.argmin())
            if (choice == before).all():
                break
        return choice

    def _improved(self, choice: Ints) -> Ints:
        """Widen where there is time left, then exchange widths between two groups."""
        for _ in range(_EXCHANGES):
            rows = self._neighbours(choice)
            gains = self._loss(choice) - self._losses[np.arange(len(choice)), rows].sum(axis=1)
            worth = gains > 1e-12
            if not worth.any():
                break
            rows, gains = rows[worth], gains[worth]
            fits = self._times(rows) <= self.limit
            if not fits.any():
                break
            choice = rows[fits][int(gains[fits].argmax())]
        return choice

    def _neighbours(self, choice: Ints) -> Ints:
        """One group up to three steps wider, alone or with another one as much as that narrower."""
        wider = [(g, -n) for g in range(len(choice)) for n in _STEPS if choice[g] >= n]
        room = self.sizes - 1 - choice
        narrower = [(g, n) for g in range(len(choice)) for n in (0, *_STEPS) if room[g] >= n]
        moves = [(a, b) for a in wider for b in narrower if (a[0] == b[0]) == (b[1] == 0)]
        rows: Ints = np.repeat(choice[None], len(moves), axis=0)
        for row, ((up, steps), (down, back)) in zip(rows, moves, strict=True):
            row[up] += steps
            row[down] += back
        return rows

    def _loss(self, choice: Ints) -> float:
        return float(self._losses[np.arange(len(choice)), choice].sum())

    def _time(self, choice: Ints) -> float:
        return float(self._times(choice[None])[0])

    def _times(self, rows: Ints) -> Float64:
        kept = np.empty_like(rows)
        for group, option in enumerate(self.options):
            kept[:, group] = np.array(option.widths)[rows[:, group]]
        return self.times(kept)

    def _widths(self, choice: Ints) -> list[int]:
        return [o.widths[i] for o, i in zip(self.options, choice.tolist(), strict=True)]
