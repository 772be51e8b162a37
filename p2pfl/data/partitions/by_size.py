"""Partitions of shuffled samples: the same mix of classes, equal or unequal sizes."""

from __future__ import annotations

import numpy as np

from p2pfl.data.partitions.request import Counts, Request, Split, draw, least_samples, raise_to, split_of

MIN_SAMPLES = 10  # of a shard whose size is drawn, as in NIID-Bench


def iid(request: Request) -> Split:
    """Independent and identically distributed shards (McMahan et al. 2017, section 3).

    Their sizes differ by at most one.
    """
    order = request.generator().permutation(len(request.labels))
    return split_of(np.array_split(order, request.peers))


def quantity(request: Request) -> Split:
    """Unequal sizes, with the same mix of classes for all.

    ALPHA: the sizes' shares are drawn from a symmetric Dirichlet distribution (Li et al. 2022, section 4.3, quantity
    skew), again until no shard is below --min-samples. linear, square, exponential: the size of peer i = 1, 2, … grows
    as i, i², eⁱ (the size partitioners of flwr-datasets); sizes below --min-samples (default 1) are raised to it at
    the expense of the largest.
    """
    growth = {"linear": lambda i: i, "square": lambda i: i**2, "exponential": lambda i: np.exp(i - request.peers)}
    notes: tuple[str, ...] = ()
    if request.argument in growth:
        weights = growth[request.argument](np.arange(1.0, request.peers + 1))
        sizes = raise_to(_sizes(weights / weights.sum(), len(request.labels)), least_samples(request, 1))
        generator = request.generator()
    else:
        alpha = np.full(request.peers, float(request.argument))
        least = least_samples(request, MIN_SAMPLES)
        rule = lambda g: _sizes(g.dirichlet(alpha), len(request.labels))  # noqa: E731
        sizes, generator, notes = draw(request, rule, least, ("fewer peers", "a larger ALPHA"))
    order = generator.permutation(len(request.labels))
    return split_of(np.split(order, np.cumsum(sizes)[:-1]), notes)


def _sizes(shares: np.ndarray, total: int) -> Counts:
    """Whole sizes in proportion to shares that add up to 1."""
    ends = np.floor(np.cumsum(shares) * total + 1e-9).astype(np.int64)
    ends[-1] = total
    return np.diff(ends, prepend=0)
