"""The search against all choices there are, on problems small enough to try them."""

from itertools import product

import numpy as np
import pytest

from edgevision.pruning.search import Options, search_widths


def problem(seed, groups=4, widths=5):
    """Losses that grow as groups narrow, and a time of products of neighbours, as in a chain."""
    generator = np.random.default_rng(seed)
    options = []
    for _ in range(groups):
        sizes = tuple(8 * n for n in range(widths, 0, -1))
        losses = np.cumsum(generator.uniform(0, 1, widths) ** 2) * generator.uniform(0.1, 3)
        options.append(Options(sizes, (0.0, *losses[: widths - 1].tolist())))
    pairs = generator.uniform(0.1, 1, groups - 1)
    own = generator.uniform(0, 8, groups)

    def times(kept):
        tiles = np.ceil(kept / 16) * 16
        return 50 + (pairs * tiles[:, 1:] * tiles[:, :-1]).sum(1) + kept @ own

    return options, times


def every_choice(options):
    rows = list(product(*(range(len(o.widths)) for o in options)))
    kept = np.array([[o.widths[i] for o, i in zip(options, row, strict=True)] for row in rows])
    losses = np.array([sum(o.losses[i] for o, i in zip(options, row, strict=True)) for row in rows])
    return kept, losses


def loss_of(options, widths):
    return sum(o.losses[o.widths.index(w)] for o, w in zip(options, widths, strict=True))


def test_within_the_limit_and_hardly_worse_than_the_best_choice():
    excess = []
    for seed in range(40):
        options, times = problem(seed)
        kept, losses = every_choice(options)
        took = times(kept)
        limit = took.min() + (0.2 + 0.6 * (seed % 4) / 3) * (took.max() - took.min())
        found = search_widths(options, times, limit)
        assert times(np.array([found]))[0] <= limit * (1 + 1e-6)
        best = losses[took <= limit].min()
        excess.append(loss_of(options, found) - best)
        assert excess[-1] <= 0.1 * losses.max()
    assert np.mean([e < 1e-9 for e in excess]) >= 0.8


def test_everything_stays_where_there_is_time():
    options, times = problem(0)
    full = np.array([[o.widths[0] for o in options]])
    assert search_widths(options, times, float(times(full)[0])) == full[0].tolist()


def test_none_where_the_narrowest_takes_too_long():
    options, times = problem(1)
    narrow = np.array([[o.widths[-1] for o in options]])
    assert search_widths(options, times, float(times(narrow)[0]) * 0.99) is None
    assert search_widths(options, times, float(times(narrow)[0])) == narrow[0].tolist()


@pytest.mark.parametrize("seed", range(3))
def test_a_tighter_limit_never_loses_less(seed):
    options, times = problem(seed, groups=8, widths=12)
    full = float(times(np.array([[o.widths[0] for o in options]]))[0])
    lost = [
        loss_of(options, search_widths(options, times, share * full))
        for share in (0.9, 0.7, 0.5, 0.35)
    ]
    assert lost == sorted(lost)
