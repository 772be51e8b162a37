"""Request for a partition, its result, and draws that are repeated until they fit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from p2pfl.errors import ConfigError
from p2pfl.seeding import numpy_generator
from p2pfl.util.text import some

Indices = npt.NDArray[np.int64]
Counts = npt.NDArray[np.int64]

MOST_DRAWS = 1000  # of one partition, before it is given up


@dataclass(frozen=True, eq=False)
class Request:
    """Request for a partition of N training samples.

    spec: as --partition has it. labels: (N,), in 0..classes-1. names: the peers' labels. seed: of everything drawn.
    min_samples: least size of a shard; None: the default of the rule. owners: (N,), each sample's place in
    `owner_names`, where the data set says whose it is.
    """

    spec: str
    labels: npt.NDArray[Any]
    names: tuple[str, ...]
    seed: int
    classes: int
    min_samples: int | None = None
    owners: Indices | None = None
    owner_names: tuple[str, ...] = ()

    @property
    def argument(self) -> str:
        """Argument after the name of the partition."""
        return self.spec.partition(":")[2]

    @property
    def peers(self) -> int:
        """Number of peers."""
        return len(self.names)

    @cached_property
    def class_sizes(self) -> Counts:
        """Samples of each class, (classes,)."""
        return np.bincount(self.labels, minlength=self.classes).astype(np.int64)

    def generator(self, draw: int = 0) -> np.random.Generator:
        """Random generator of one draw."""
        return numpy_generator(self.seed, "partition", round=draw)

    def refusal(self, problem: str) -> ConfigError:
        """Error that names the partition."""
        return ConfigError(f"--partition {self.spec}: {problem}")


@dataclass(frozen=True, eq=False)
class Split:
    """Shards of all peers: sorted, disjoint arrays of sample numbers.

    notes: what the reader of the results should know, a line each. known_sizes: of the shards, where those of other
    peers are not here.
    """

    shards: tuple[Indices, ...]
    notes: tuple[str, ...] = ()
    known_sizes: tuple[int, ...] = ()

    @property
    def sizes(self) -> list[int]:
        """Samples of each shard."""
        return list(self.known_sizes) or [len(shard) for shard in self.shards]

    @property
    def mean_size(self) -> int:
        """Mean size of a shard, rounded down."""
        return sum(self.sizes) // len(self.shards)

    @cached_property
    def digest(self) -> str:
        """Digest of all shards, by which a resumed run tells whether they are the same."""
        digest = hashlib.sha256(repr(self.sizes).encode())
        for shard in self.shards:
            digest.update(np.ascontiguousarray(shard, dtype="<i8").tobytes())
        return digest.hexdigest()[:16]

    def class_counts(self, labels: npt.NDArray[Any], classes: int) -> list[list[int]]:
        """Samples of each class in each shard; labels (N,) are those of all samples."""
        return [np.bincount(labels[shard], minlength=classes).tolist() for shard in self.shards]


def split_of(shards: list[Indices], notes: tuple[str, ...] = ()) -> Split:
    """Split of shards in any order of their samples."""
    return Split(tuple(np.sort(shard.astype(np.int64)) for shard in shards), notes)


def draw(
    request: Request, rule: Callable[[np.random.Generator], Counts | None], least: int, remedies: Sequence[str]
) -> tuple[Counts, np.random.Generator, tuple[str, ...]]:
    """Draw until every peer has at least `least` samples.

    `rule` returns each peer's samples, (peers,) or (peers, classes); None where it cannot be met. Returns what it has
    drawn, the generator in its state after that, and a note if it was drawn more than once. Raises ConfigError, which
    ends with `remedies`; with a smaller --min-samples, too, where `least` is above 1.
    """
    reasons: set[str] = set()
    for number in range(MOST_DRAWS):
        generator = request.generator(number)
        counts = rule(generator)
        if counts is None:
            reasons.add("its rule could be met")
        elif counts.reshape(request.peers, -1).sum(axis=1).min() < least:
            reasons.add(f"every peer had {_at_least(least)}")
        else:
            return counts, generator, (_redrawn(request, number + 1, reasons),) if number else ()
    unmet = "met its rule" if reasons == {"its rule could be met"} else f"gave each {_at_least(least)}"
    listed = some((*(["a smaller --min-samples"] if least > 1 else []), *remedies), last=" or ")
    raise request.refusal(f"none of {MOST_DRAWS:,} draws for {request.peers:,} peers {unmet}; use {listed}")


def _redrawn(request: Request, draws: int, reasons: set[str]) -> str:
    return f"--partition {request.spec}: drawn {draws:,} times, until {' and '.join(sorted(reasons, reverse=True))}"


def _at_least(least: int) -> str:
    return f"at least {least:,} sample{'s' * (least > 1)}"


def least_samples(request: Request, default: int) -> int:
    """Least size of a shard: --min-samples, or the rule's default.

    The default is at most a tenth of an equal share, so that small data sets can be split. Raises ConfigError for more
    than an equal share.
    """
    share = len(request.labels) // request.peers
    if request.min_samples is None:
        return max(1, min(default, share // 10))
    if request.min_samples > share:
        raise ConfigError(
            f"--min-samples {request.min_samples}: {request.peers:,} peers share {len(request.labels):,} samples; "
            f"choose 1 to {share:,}"
        )
    return request.min_samples


def deal(request: Request, counts: Counts, generator: np.random.Generator | None) -> list[Indices]:
    """Deal the samples of each class out in the order of the peers.

    counts: (peers, classes), whose columns add up to the class sizes. Each class is shuffled first, or kept in the
    order of the data set where there is no generator.
    """
    pieces: list[list[Indices]] = [[] for _ in request.names]
    for label in range(request.classes):
        members = np.flatnonzero(request.labels == label)
        if generator is not None:
            members = generator.permutation(members)
        for peer, piece in enumerate(np.split(members, np.cumsum(counts[:-1, label]))):
            pieces[peer].append(piece)
    return [np.concatenate(own) for own in pieces]


def raise_to(sizes: Counts, least: int) -> Counts:
    """Sizes of which none is below `least`; what is added is taken from the largest."""
    raised = np.maximum(sizes, least)
    for _ in range(int(raised.sum() - sizes.sum())):
        raised[raised.argmax()] -= 1
    return raised
