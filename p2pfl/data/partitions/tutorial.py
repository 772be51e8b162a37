"""Partitions of the tutorial series "Preserving data privacy in deep learning".

Its part 2 defines both; the flaws of its rules are kept, so that its results can be repeated.
"""

from __future__ import annotations

import numpy as np

from p2pfl.data.partitions.request import Counts, Request, Split, deal, draw, least_samples, raise_to, split_of

LIGHTEST, HEAVIEST = 10, 100  # weights of which the sizes of classes-pc are made
STARVED = 0.25  # of an equal share: a last client of fewer samples is worth a note


def real_world(request: Request) -> Split:
    """A random number of classes for each client, in exclusive pieces.

    Client i wants k_i classes, drawn from 1 to one less than there are. Σ k_i is broken into a random number of pieces
    for each class, one at least; the class with most pieces comes first. Each class is cut into its pieces, as equal
    as possible, in the order of the data set. Client by client takes one piece of each of the first k_i classes,
    which are sorted again by what is left of them. Where the original fails, because too few classes are left for a
    client or a piece would be empty, everything is drawn again.
    """
    filled = int(np.count_nonzero(request.class_sizes))
    if request.peers == 1 and filled > 1:
        raise request.refusal(f"a client holds {filled - 1} of {filled} classes at most; use two or more")
    remedies = ("fewer peers", "another partition")
    drawn, _, notes = draw(request, lambda g: _pieces(request, g), least_samples(request, 1), remedies)
    return split_of(deal(request, drawn, None), notes)


def _pieces(request: Request, generator: np.random.Generator) -> Counts | None:
    """Samples of each client and class, (peers, classes); None where that fails."""
    filled = np.flatnonzero(request.class_sizes)
    wanted = generator.integers(1, max(2, len(filled)), request.peers)
    more = int(wanted.sum()) - len(filled)
    if more < 0:
        return None
    parts = np.bincount(generator.integers(0, len(filled), more), minlength=len(filled)) + 1
    order = [int(label) for label in generator.permutation(filled)]
    left = dict(zip(order, sorted(map(int, parts), reverse=True), strict=True))
    if any(left[label] > request.class_sizes[label] for label in order):
        return None
    cut = {label: iter(np.array_split(np.arange(request.class_sizes[label]), left[label])) for label in order}
    counts = np.zeros((request.peers, request.classes), dtype=np.int64)
    for client, number in enumerate(wanted):
        taken = [label for label in order if left[label]][:number]
        if len(taken) < number:
            return None
        for label in taken:
            counts[client, label] = len(next(cut[label]))
            left[label] -= 1
        order.sort(key=lambda label: -left[label])
    return counts


def classes_pc(request: Request) -> Split:
    """About K classes for each client in random sizes; the last gets the rest.

    All clients but the last draw a weight from 10 to 100; their sizes are in proportion to these, rounded down, and the
    last client gets what rounding has left: a handful of samples. --min-samples mends that at the expense of the
    largest. Client by client begins at a random class, and takes a K-th of its size of each class in turn until it has
    enough: as samples are given only once, late clients find classes used up and get more than K classes.
    """
    per_client = int(request.argument)

    def counts(generator: np.random.Generator) -> Counts:
        sizes = _random_sizes(len(request.labels), request.peers, generator)
        if request.min_samples is not None:
            sizes = raise_to(sizes, least_samples(request, 1))
        return _budgets_spent(request.class_sizes, sizes, per_client, generator)

    if request.peers == 2 and request.min_samples is None:
        raise request.refusal("with 2 peers the last one gets no sample at all; give --min-samples")
    drawn, generator, notes = draw(request, counts, 1, ("--min-samples 1", "fewer peers"))
    last, mean = int(drawn[-1].sum()), len(request.labels) / request.peers
    if last < mean * STARVED:
        count = f"{last} sample{'s' * (last > 1)} (mean {mean:,.0f})"
        mend = "; --min-samples mends it" if request.min_samples is None else ""
        notes += (
            f"--partition {request.spec}: {request.names[-1]}, the last client, has only {count}, as in the "
            f"tutorial{mend}",
        )
    return split_of(deal(request, drawn, generator), notes)


def _random_sizes(total: int, clients: int, generator: np.random.Generator) -> Counts:
    weights = generator.integers(LIGHTEST, HEAVIEST, clients - 1, endpoint=True)
    sizes = np.floor(weights / max(1, int(weights.sum())) * total).astype(np.int64)
    return np.append(sizes, total - sizes.sum())


def _budgets_spent(class_sizes: Counts, sizes: Counts, per_client: int, generator: np.random.Generator) -> Counts:
    """Samples of each client and class, (clients, classes)."""
    left = class_sizes.copy()
    counts = np.zeros((len(sizes), len(left)), dtype=np.int64)
    for client, size in enumerate(sizes):
        budget, quota = int(size), max(1, int(size) // per_client)
        label = int(generator.integers(len(left)))
        while budget:
            take = min(quota, int(left[label]), budget)
            counts[client, label] += take
            left[label] -= take
            budget -= take
            label = (label + 1) % len(left)
    return counts
