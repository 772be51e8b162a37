"""Shards are disjoint, cover the data, and depend on nothing but the seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfl.data.partition import partition
from p2pfl.errors import ConfigError


@given(st.integers(1, 12), st.integers(0, 40), st.integers(0, 2**32))
def test_shards_are_disjoint_covering_and_even(peers: int, extra: int, seed: int) -> None:
    samples = peers + extra
    shards = partition("iid", np.zeros(samples, dtype=np.int64), peers, seed)
    assert len(shards) == peers
    assert sorted(np.concatenate(shards)) == list(range(samples))
    sizes = [len(shard) for shard in shards]
    assert max(sizes) - min(sizes) <= 1
    for shard in shards:
        assert shard.dtype == np.int64
        assert (np.diff(shard) > 0).all()


def test_the_seed_decides() -> None:
    labels = np.zeros(60, dtype=np.int64)
    first, again, other = (partition("iid", labels, 3, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


def test_shards_mix_sorted_labels() -> None:
    labels = np.repeat(np.arange(4), 100)  # as image folders come: class by class
    for shard in partition("iid", labels, 4, 0):
        assert np.bincount(labels[shard], minlength=4).min() > 5


@pytest.mark.parametrize(
    ("name", "peers", "words"),
    [("iid", 5, "5 peers cannot share 4"), ("iid", 0, "0 peers"), ("dirichlet?", 2, "choose one of iid")],
)
def test_refusals(name: str, peers: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        partition(name, np.zeros(4, dtype=np.int64), peers, 0)
