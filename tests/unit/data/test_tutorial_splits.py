"""The tutorial's splits are those of an independent account of its rules."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.tutorial_splits import Shards, classes_pc, real_world

from p2pfl.data import Request, Split, partition
from p2pfl.errors import ConfigError
from p2pfl.seeding import numpy_generator

CLASS_SIZES = st.lists(st.integers(0, 60), min_size=1, max_size=12).filter(lambda sizes: sum(sizes) >= 60)


def labels_of(sizes: list[int], seed: int) -> list[int]:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return [int(label) for label in np.random.default_rng(seed).permutation(labels)]


def ours(spec: str, labels: list[int], classes: int, peers: int, seed: int) -> Split:
    return partition(Request(spec, np.array(labels), tuple(f"p{i}" for i in range(peers)), seed, classes))


def theirs(rule: Callable[[np.random.Generator], Shards | None], seed: int) -> tuple[Shards, int]:
    """The first draw that succeeds, and its number."""
    for number in range(1000):
        found = rule(numpy_generator(seed, "partition", round=number))
        if found is not None:
            return [sorted(shard) for shard in found], number
    raise AssertionError("no draw succeeds")


def compare(found: Split, expected: tuple[Shards, int]) -> None:
    shards, failed = expected
    assert [shard.tolist() for shard in found.shards] == shards
    told = [note for note in found.notes if "drawn" in note]
    assert [f"drawn {failed + 1} times" in note for note in told] == [True] * bool(failed), "said where drawn again"


@settings(max_examples=40, deadline=None)
@given(CLASS_SIZES, st.integers(2, 25), st.integers(0, 2**32))
def test_real_world(sizes: list[int], peers: int, seed: int) -> None:
    labels = labels_of(sizes, seed)
    try:
        found = ours("real-world", labels, len(sizes), peers, seed)
    except ConfigError:
        with pytest.raises(AssertionError, match="no draw succeeds"):
            theirs(lambda g: real_world(labels, peers, g), seed)
    else:
        compare(found, theirs(lambda g: real_world(labels, peers, g), seed))


@settings(max_examples=40, deadline=None)
@given(CLASS_SIZES, st.integers(3, 25), st.integers(1, 30), st.integers(0, 2**32))
def test_classes_pc(sizes: list[int], peers: int, per_client: int, seed: int) -> None:
    """Up to 30 classes a client, of 12 at most, and clients of hardly any samples."""
    labels = labels_of(sizes, seed)
    try:
        found = ours(f"classes-pc:{per_client}", labels, len(sizes), peers, seed)
    except ConfigError:
        with pytest.raises(AssertionError, match="no draw succeeds"):
            theirs(lambda g: classes_pc(labels, len(sizes), peers, per_client, g), seed)
    else:
        compare(found, theirs(lambda g: classes_pc(labels, len(sizes), peers, per_client, g), seed))


@pytest.mark.parametrize("per_client", [4, 50, 1000])
def test_more_classes_a_client_than_there_are(per_client: int) -> None:
    labels = labels_of([100, 100, 100], 3)
    for seed in range(10):
        found = ours(f"classes-pc:{per_client}", labels, 3, 6, seed)
        compare(found, theirs(lambda g: classes_pc(labels, 3, 6, per_client, g), seed))


def test_more_peers_than_samples_of_a_class() -> None:
    labels, failures = labels_of([100, 100, 5], 4), 0
    for seed in range(20):
        expected = theirs(lambda g: real_world(labels, 12, g), seed)
        compare(ours("real-world", labels, 3, 12, seed), expected)
        failures += expected[1]
        compare(ours("classes-pc:2", labels, 3, 12, seed), theirs(lambda g: classes_pc(labels, 3, 12, 2, g), seed))
    assert failures > 0, "of a class cut into more pieces than it has samples"


def test_clients_of_all_the_tutorials_numbers() -> None:
    """Twenty clients of ten classes, as in its part 2."""
    labels = labels_of([200] * 10, 5)
    for seed in range(10):
        compare(ours("real-world", labels, 10, 20, seed), theirs(lambda g: real_world(labels, 20, g), seed))
        compare(ours("classes-pc:2", labels, 10, 20, seed), theirs(lambda g: classes_pc(labels, 10, 20, 2, g), seed))
