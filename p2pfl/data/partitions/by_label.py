"""Partitions that differ in their classes: Dirichlet, K classes a peer, shards."""

from __future__ import annotations

import numpy as np

from p2pfl.data.partitions.by_size import MIN_SAMPLES
from p2pfl.data.partitions.request import Counts, Request, Split, deal, draw, least_samples, split_of


def dirichlet(request: Request) -> Split:
    """Each class's shares of the peers drawn from a symmetric Dirichlet distribution.

    Concentration ALPHA: small values give peers few classes, large ones the same mix for all. Sizes are free, with a
    minimum of 10 samples (--min-samples), drawn again until it holds: Yurochkin et al. 2019, section 4 (the split),
    and Li et al. 2022, section 4.1 (with the minimum).
    """
    alpha = np.full(request.peers, float(request.argument))

    def counts(generator: np.random.Generator) -> Counts:
        ends = np.floor(np.cumsum(generator.dirichlet(alpha, request.classes), axis=1) * request.class_sizes[:, None])
        ends[:, -1] = request.class_sizes
        return np.diff(ends, axis=1, prepend=0).astype(np.int64).T

    remedies = ("fewer peers", "a larger ALPHA", "dirichlet-balanced")
    drawn, generator, notes = draw(request, counts, least_samples(request, MIN_SAMPLES), remedies)
    return split_of(deal(request, drawn, generator), notes)


def dirichlet_balanced(request: Request) -> Split:
    """Each peer's mix of classes drawn from a Dirichlet distribution, in equal sizes.

    Concentration ALPHA for each class (Hsu, Qi & Brown 2019, section 3.1, who draw without replacement). All peers
    draw at the same time; where they want more of a class than there is, chance decides, and they draw the rest from
    the classes that are left. Sizes differ by at most one.
    """
    generator = request.generator()
    mixes = generator.dirichlet(np.full(request.classes, float(request.argument)), request.peers)
    share, more = divmod(len(request.labels), request.peers)
    wanted = np.full(request.peers, share) + (generator.permutation(request.peers) < more)
    counts = np.zeros((request.peers, request.classes), dtype=np.int64)
    left = request.class_sizes.copy()
    while wanted.any():
        asked = np.array([_asked(generator, n, mix, left) for n, mix in zip(wanted, mixes, strict=True)])
        for label in np.flatnonzero(asked.sum(axis=0) > left):
            asked[:, label] = generator.multivariate_hypergeometric(asked[:, label], left[label])
        counts += asked
        left -= asked.sum(axis=0)
        wanted = wanted - asked.sum(axis=1)
    return split_of(deal(request, counts, generator))


def _asked(generator: np.random.Generator, number: int, mix: np.ndarray, left: Counts) -> Counts:
    """Classes of so many samples, drawn from a mix of the classes that are left."""
    shares = np.where(left > 0, mix, 0.0)
    if shares.sum() < 1e-9:  # nothing that the peer wants is left
        shares = left.astype(float)
    return generator.multinomial(number, shares / shares.sum())


def classes(request: Request) -> Split:
    """K classes for each peer, each class shared equally by those that hold it.

    Li et al. 2022, section 4.1 (quantity-based label imbalance, #C = K). The classes are drawn so that each is held
    by as many peers as any other, give or take one.
    """
    each = int(request.argument)
    if each > request.classes:
        raise request.refusal(f"there are only {request.classes} classes; choose 1 to {request.classes}")
    if each * request.peers < request.classes:
        raise request.refusal(
            f"{request.peers} peers of {each} would hold {each * request.peers} of {request.classes} classes; choose "
            f"at least {-(-request.classes // request.peers)}"
        )
    generator = request.generator()
    holders: list[list[int]] = [[] for _ in range(request.classes)]
    for peer in generator.permutation(request.peers):
        order = generator.permutation(request.classes)
        chosen = sorted(order, key=lambda label: len(holders[label]))[:each]
        for label in chosen:
            holders[label].append(int(peer))
    counts = np.zeros((request.peers, request.classes), dtype=np.int64)
    for label, peers in enumerate(holders):
        size = int(request.class_sizes[label])
        if 0 < size < len(peers):
            raise request.refusal(
                f"class {label} has {size:,} sample{'s' * (size > 1)} for the {len(peers):,} peers that are to hold "
                "it; use fewer peers" + (", or a smaller K" if each > 1 else "")
            )
        for place, peer in enumerate(peers):
            counts[peer, label] = (size + len(peers) - 1 - place) // len(peers)
    empty = np.flatnonzero(counts.sum(axis=1) == 0)
    if len(empty):
        raise request.refusal(f"peer {request.names[empty[0]]} would have classes without a sample; choose a larger K")
    return split_of(deal(request, counts, generator))


def shards(request: Request) -> Split:
    """S shards for each peer, cut from the samples sorted by class.

    McMahan et al. 2017, section 3: 100 clients, of which each gets 2 of 200 shards of 300 samples, and with them two
    classes at the most in most cases. Shards differ in size by at most one sample.
    """
    number = request.peers * int(request.argument)
    if number > len(request.labels):
        raise request.refusal(
            f"{number:,} shards cannot be cut from {len(request.labels):,} samples; choose a smaller S"
        )
    pieces = np.array_split(np.argsort(request.labels, kind="stable"), number)
    dealt = np.split(request.generator().permutation(number), request.peers)
    return split_of([np.concatenate([pieces[place] for place in own]) for own in dealt])
