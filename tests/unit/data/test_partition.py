"""Shards are disjoint, cover the data, and depend on nothing but the seed."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from p2pfl.config import RunConfig, check_together
from p2pfl.data import Request, Split, partition
from p2pfl.errors import ConfigError
from p2pfl.registry import PARTITIONS

# Spellings of each partition that deals samples out by itself, with arguments that fit ten classes.
SPECS = {
    "iid": ["iid"],
    "dirichlet": ["dirichlet:0.1", "dirichlet:1", "dirichlet:100"],
    "dirichlet-balanced": ["dirichlet-balanced:0.1", "dirichlet-balanced:10"],
    "classes": ["classes:2", "classes:7", "classes:10"],
    "shards": ["shards:1", "shards:2"],
    "quantity": ["quantity:0.5", "quantity:linear", "quantity:square", "quantity:exponential"],
    "real-world": ["real-world"],
    "classes-pc": ["classes-pc:2", "classes-pc:20"],
}
ALL = [spec for specs in SPECS.values() for spec in specs]


def test_every_registered_partition_is_tested() -> None:
    assert {*SPECS, "file", "own"} == set(PARTITIONS), "these two are tested in another module"


def split(
    spec: str, labels: np.ndarray, peers: int, seed: int = 0, least: int | None = None, classes: int = 10
) -> Split:
    return partition(Request(spec, labels, tuple(f"p{i}" for i in range(peers)), seed, classes, least))


def counts_of(found: Split, labels: np.ndarray, classes: int = 10) -> np.ndarray:
    return np.array(found.class_counts(labels, classes))


def labels_of(samples: int, seed: int = 0) -> np.ndarray:
    """Ten classes of about equal size in random order."""
    return np.random.default_rng(seed).permutation(np.arange(samples) % 10)


def equal(one: Split, other: Split) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one.shards, other.shards, strict=True))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(ALL), st.integers(1, 12), st.integers(120, 400), st.integers(0, 2**32))
def test_shards_are_disjoint_covering_sorted_and_seeded(spec: str, peers: int, samples: int, seed: int) -> None:
    labels = labels_of(samples)
    try:
        found = split(spec, labels, peers, seed)
    except ConfigError as error:
        # Too few peers to hold all classes, or to be clients of the tutorial's.
        assume(not (spec.startswith("classes:") and int(spec.partition(":")[2]) * peers < 10))
        assume(not (spec.startswith("classes-pc") and peers == 2))
        assume(not (spec == "real-world" and peers == 1))
        raise AssertionError(str(error)) from None
    assert len(found.shards) == peers
    assert sorted(np.concatenate(found.shards)) == list(range(samples))
    for shard in found.shards:
        assert shard.dtype == np.int64
        assert len(shard) > 0
        assert (np.diff(shard) > 0).all()
    again = split(spec, labels, peers, seed)
    assert equal(found, again)
    assert found.digest == again.digest


@pytest.mark.parametrize("spec", ALL)
def test_the_seed_decides(spec: str) -> None:
    labels = labels_of(600)
    one, other = split(spec, labels, 8, 1), split(spec, labels, 8, 2)
    assert not equal(one, other)
    assert one.digest != other.digest


@given(st.integers(1, 12), st.integers(0, 40), st.integers(0, 2**32))
def test_iid_shards_are_even(peers: int, extra: int, seed: int) -> None:
    sizes = split("iid", np.zeros(peers + extra, dtype=np.int64), peers, seed).sizes
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("spec", ["iid", "quantity:linear"])
def test_shuffled_shards_mix_sorted_labels(spec: str) -> None:
    labels = np.repeat(np.arange(4), 100)  # as image folders come: class by class
    shares = counts_of(split(spec, labels, 4), labels, 4)
    assert (shares / shares.sum(axis=1, keepdims=True)).min() > 0.05


# By size


@pytest.mark.parametrize(
    ("growth", "weights"), [("linear", [1, 2, 3, 4]), ("square", [1, 4, 9, 16]), ("exponential", np.exp([1, 2, 3, 4]))]
)
def test_sizes_grow_as_asked(growth: str, weights: list[float]) -> None:
    sizes = split(f"quantity:{growth}", labels_of(1000), 4).sizes
    np.testing.assert_allclose(sizes, 1000 * np.array(weights) / np.sum(weights), atol=1)


def test_a_small_size_is_raised_at_the_expense_of_the_largest() -> None:
    plain = split("quantity:exponential", labels_of(1000), 20).sizes
    assert min(plain) == 1, "eⁱ gives the first of 20 peers no sample"
    mended = split("quantity:exponential", labels_of(1000), 20, least=25).sizes
    assert min(mended) == 25
    assert sum(mended) == 1000
    assert max(mended) < max(plain)


@pytest.mark.parametrize("spec", ["quantity:0.3", "dirichlet:0.3"])
def test_a_minimum_holds_because_the_seed_draws_again(spec: str) -> None:
    labels, drawn_again = labels_of(1000), 0
    for seed in range(20):
        assert min(split(spec, labels, 8, seed).sizes) >= 10, "the default"
        found = split(spec, labels, 8, seed, least=20)
        assert min(found.sizes) >= 20
        assert all("drawn" in note and "at least 20 samples" in note for note in found.notes)
        drawn_again += bool(found.notes)
    assert drawn_again > 0


def test_quantity_shares_spread_as_the_dirichlet_distribution_says() -> None:
    labels = labels_of(1000)
    shares = np.array([split("quantity:2", labels, 5, seed, least=1).sizes for seed in range(300)]) / 1000
    assert shares.mean(axis=0) == pytest.approx(0.2, abs=0.02)
    assert shares.var() == pytest.approx(0.2 * 0.8 / (5 * 2 + 1), rel=0.15)


# By label


@pytest.mark.parametrize("alpha", [0.5, 5])
def test_dirichlet_shares_of_each_class_spread_as_the_distribution_says(alpha: float) -> None:
    labels, peers = labels_of(2000), 6
    drawn = [counts_of(split(f"dirichlet:{alpha}", labels, peers, seed, least=1), labels) for seed in range(60)]
    shares = np.array(drawn) / 200  # (seeds, peers, classes), of the 200 samples of a class
    mean = 1 / peers
    assert shares.mean(axis=(0, 2)) == pytest.approx(mean, abs=0.02)
    assert shares.var() == pytest.approx(mean * (1 - mean) / (peers * alpha + 1), rel=0.15)


def test_balanced_dirichlet_shards_are_equal_and_their_mixes_spread() -> None:
    labels = labels_of(2003)
    drawn = []
    for seed in range(40):
        found = split("dirichlet-balanced:0.5", labels, 8, seed)
        assert max(found.sizes) - min(found.sizes) <= 1
        drawn.append(counts_of(found, labels) / np.array(found.sizes)[:, None])
    spread = np.array(drawn).var()
    # Of the distribution; less, since the classes together have to be used up.
    assert 0.5 * 0.1 * 0.9 / (10 * 0.5 + 1) < spread < 0.1 * 0.9 / (10 * 0.5 + 1)


@pytest.mark.parametrize(("each", "peers"), [(1, 10), (2, 5), (2, 8), (3, 7), (10, 4)])
def test_every_peer_has_k_classes_and_every_class_as_many_holders(each: int, peers: int) -> None:
    labels = labels_of(1000)
    held = counts_of(split(f"classes:{each}", labels, peers), labels)
    assert ((held > 0).sum(axis=1) == each).all()
    holders = (held > 0).sum(axis=0)
    assert holders.max() - holders.min() <= 1
    for label in range(10):
        own = held[:, label][held[:, label] > 0]
        assert own.max() - own.min() <= 1


def test_shards_are_cut_from_sorted_samples() -> None:
    labels = labels_of(1000)
    found = split("shards:2", labels, 20)
    assert found.sizes == [50] * 20
    assert ((counts_of(found, labels) > 0).sum(axis=1) <= 2).all(), "forty shards of 25 fit into classes of 100"
    order = np.argsort(labels, kind="stable").reshape(40, 25)
    pieces = {tuple(sorted(piece)) for piece in order}
    for shard in found.shards:
        assert sum(set(piece) <= set(shard) for piece in pieces) == 2


# The tutorial's, against what its own text says


def pieces_problem(found: Split, labels: np.ndarray, classes: int) -> str:
    """Reason why a split is no real-world split of the tutorial, or empty."""
    for label in range(classes):
        members = np.flatnonzero(labels == label)
        owners = [peer for peer, shard in enumerate(found.shards) if len(np.intersect1d(shard, members))]
        # The pieces are as np.array_split makes them, in file order, and go to clients in their order.
        for piece, peer in zip(np.array_split(members, len(owners)), owners, strict=True):
            if not np.isin(piece, found.shards[peer]).all():
                return f"class {label} is not cut into {len(owners)} pieces in file order"
    held = (counts_of(found, labels, classes) > 0).sum(axis=1)
    if held.min() < 1 or held.max() > classes - 1:
        return f"clients hold {held} classes"
    return ""


@given(st.integers(1, 30), st.integers(2, 12), st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_real_world_pieces_are_those_of_the_tutorial(peers: int, classes: int, seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.arange(60 * classes) % classes)
    assume(peers > 1 or classes == 1)
    found = split("real-world", labels, peers, seed, classes=classes)
    assert pieces_problem(found, labels, classes) == ""


def test_the_number_of_classes_is_uniform_from_one_to_nine() -> None:
    labels = labels_of(1000)
    held = [(counts_of(split("real-world", labels, 20, seed), labels) > 0).sum(axis=1) for seed in range(60)]
    frequency = np.bincount(np.concatenate(held), minlength=10)[1:] / 1200
    assert len(frequency) == 9
    assert frequency == pytest.approx(1 / 9, abs=0.04)


def test_more_clients_than_samples_of_a_class_are_drawn_again_until_no_piece_is_empty() -> None:
    labels = np.repeat(np.arange(3), [100, 100, 5])
    for seed in range(20):
        found = split("real-world", labels, 12, seed, classes=3)
        assert (counts_of(found, labels, 3)[:, 2] > 0).sum() <= 5
        assert min(found.sizes) > 0


def tutorial_sizes_problem(sizes: list[int], total: int) -> str:
    """Reason why sizes are not those of the tutorial, or empty.

    ⌊w_i/Σw·N⌋ with weights of 10 to 100, the last one being the rest.
    """
    shares = np.array(sizes[:-1]) / total
    if shares.max() / max(shares.min(), 1e-9) > 10.5:
        return "weights from 10 to 100 differ by a factor of 10 at most"
    return "" if 0 < sizes[-1] < len(sizes) else f"the last client has {sizes[-1]}, more than rounding leaves"


@given(st.integers(3, 25), st.integers(1, 12), st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_classes_pc_is_the_tutorials(peers: int, per_client: int, seed: int) -> None:
    labels = labels_of(3000)
    found = split(f"classes-pc:{per_client}", labels, peers, seed)
    assert tutorial_sizes_problem(found.sizes, 3000) == ""
    starved = f"p{peers - 1}, the last client, has only" in " ".join(found.notes)
    assert starved == (found.sizes[-1] < 3000 / peers / 4)
    held = counts_of(found, labels)
    # The first client finds every class whole: K classes of its quota, and one more for the rest of the division.
    size, first = found.sizes[0], held[0]
    quota = max(1, size // per_client)
    if quota <= 300:
        runs = -(-size // quota)  # quotas that it takes, one class after the other, around the ring of classes
        expected = np.zeros(10, dtype=int)
        start = int(np.flatnonzero((first > 0) & (np.roll(first, 1) == 0))[0]) if (first > 0).sum() < 10 else -1
        if start >= 0:
            for number in range(runs):
                expected[(start + number) % 10] += min(quota, size - number * quota)
            assert first.tolist() == expected.tolist()


def test_the_starved_last_client_is_mended_by_a_minimum() -> None:
    labels = labels_of(1000)
    plain, mended = split("classes-pc:2", labels, 20), split("classes-pc:2", labels, 20, least=20)
    assert plain.sizes[-1] < 20
    assert mended.sizes[-1] == 20
    assert min(mended.sizes) == 20
    assert mended.notes == ()
    assert min(split("classes-pc:2", labels, 2, least=100).sizes) == 100


@pytest.mark.parametrize(
    ("peers", "least", "words"),
    [
        (20, None, ["p19, the last client, has only ", " (mean 50), as in the tutorial; --min-samples mends it"]),
        (20, 1, ["p19, the last client, has only ", " (mean 50), as in the tutorial"]),
        (200, None, []),
    ],
)
def test_a_last_client_far_below_the_mean_is_worth_a_note(peers: int, least: int | None, words: list[str]) -> None:
    found = split("classes-pc:2", labels_of(1000), peers, least=least)
    said = " ".join(note for note in found.notes if "last client" in note)
    assert bool(said) == bool(words) == (found.sizes[-1] < 250 / peers)
    assert all(word in said for word in words)
    assert said.endswith(words[-1] if words else "")


def test_a_redrawn_split_says_why() -> None:
    notes = [note for seed in range(40) for note in split("real-world", labels_of(200), 4, seed).notes]
    assert notes
    assert all(re.search(r": drawn \d+ times, until its rule could be met$", note) for note in notes)


# Refusals


@pytest.mark.parametrize(
    ("spec", "peers", "least", "words"),
    [
        ("iid", 201, None, "--partition iid: 201 peers cannot share 200"),
        ("iid", 0, None, "--partition iid: 0 peers"),
        ("classes:11", 4, None, "--partition classes:11: there are only 10 classes; choose 1 to 10"),
        ("classes:2", 4, None, "4 peers of 2 would hold 8 of 10 classes; choose at least 3"),
        ("classes:9", 100, None, "class 0 has 20 samples for the 90 peers that are to hold it; use fewer peers, or"),
        ("shards:60", 4, None, "240 shards cannot be cut from 200 samples"),
        ("classes-pc:2", 2, None, "with 2 peers the last one gets no sample at all; give --min-samples"),
        ("real-world", 1, None, "--partition real-world: a client holds 9 of 10 classes at most; use two or more"),
        ("dirichlet:0.0001", 20, 10, "none of 1,000 draws for 20 peers gave each at least 10 samples; use a smaller"),
        ("dirichlet:0.0001", 100, None, "at least 1 sample; use fewer peers, a larger ALPHA or dirichlet-balanced"),
        (
            "dirichlet:0.0001",
            10,
            None,
            "at least 2 samples; use a smaller --min-samples, fewer peers, a larger ALPHA or",
        ),
        ("quantity:0.0001", 20, 10, "use a smaller --min-samples, fewer peers or a larger ALPHA"),
        ("real-world", 190, None, "met its rule; use fewer peers or another partition"),
        ("classes-pc:2", 190, None, "at least 1 sample; use --min-samples 1 or fewer peers"),
        ("dirichlet:1", 20, 11, "--min-samples 11: 20 peers share 200 samples; choose 1 to 10"),
    ],
)
def test_what_does_not_fit_the_data_is_refused(spec: str, peers: int, least: int | None, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        split(spec, labels_of(200), peers, least=least)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("given_one", "words"),
    [
        ("dirichlet?", "choose one of iid"),
        ("iid:3", "iid takes no argument"),
        ("dirichlet", "write it as dirichlet:ALPHA"),
        ("dirichlet:", "write it as dirichlet:ALPHA"),
        ("dirichlet:linear", "ALPHA must be a number from 0.0001 to 1,000,000, such as 0.5"),
        ("dirichlet:0", "ALPHA must be a number from"),
        ("dirichlet:nan", "ALPHA must be a number from"),
        ("quantity:cubic", "such as 0.5, or one of linear, square, exponential"),
        ("classes:1.5", "K must be a whole number above 0"),
        ("shards:0", "S must be a whole number above 0"),
        ("shards:" + "9" * 24, "S is too large; choose a smaller number"),
    ],
)
def test_bad_arguments_are_refused_before_any_data_are_read(given_one: str, words: str) -> None:
    with pytest.raises(ConfigError, match=f"^--partition {given_one.replace('?', '.')}: ") as caught:
        RunConfig.of(partition=given_one)
    assert words in str(caught.value)


def test_equal_arguments_have_one_spelling() -> None:
    for spelled in ("dirichlet:0.50", "dirichlet:5e-1", "dirichlet:.5"):
        assert RunConfig.of(partition=spelled).data.partition == "dirichlet:0.5"
    assert RunConfig.of(partition="quantity:1.0").data.partition == "quantity:1"
    assert RunConfig.of(partition="classes:02").data.partition == "classes:2"


def test_a_minimum_belongs_to_drawn_sizes() -> None:
    check_together(RunConfig.of(partition="dirichlet:1", min_samples=3))
    with pytest.raises(
        ConfigError, match=r"^--min-samples 3: means nothing with --partition iid, only with dirichlet:"
    ):
        check_together(RunConfig.of(min_samples=3))
