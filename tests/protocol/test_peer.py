"""The state machine of a peer, many at once: whatever the order of events, every schedule ends with the same bits."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.helpers import THOROUGHNESS, matrix
from tests.support.peer_network import Network, Setting, Snapshot, reference, small_chunks

from p2pfl.algorithms import DPSGD, Chebyshev
from p2pfl.protocol import wire
from p2pfl.protocol.events import Finish
from p2pfl.topology import is_symmetric, spectral_gap

MAX_STEPS = 20_000
# A vector has 160 bytes, 80 in bfloat16: one chunk, or several with an odd one at the end.
CHUNKS = [48, 1 << 20]
NETWORKS = [("ring", 4), ("star", 5), ("star", 7), ("complete", 7), ("path", 2), ("exponential", 8)]


@functools.cache
def setting(kind: str, n: int, overlapped: bool = False, codec: str = "fp32", rounds: int = 3) -> Setting:
    w = matrix(kind, n)
    contraction = 1 - spectral_gap(w) if is_symmetric(w) else 0.0
    return Setting(w, DPSGD(overlapped, codec), Chebyshev(contraction), training_rounds=rounds)


@functools.cache
def expected(setting_: Setting) -> dict[int, list[torch.Tensor]]:
    return reference(setting_)


Setting.__hash__ = object.__hash__  # type: ignore[method-assign]


def in_order(network: Network) -> None:
    """The peers take turns, and each does the first thing that it can."""
    turn = 0
    while options := network.options():
        turn += 1
        network.do(min(options, key=lambda step: ((step[2] - turn) % network.setting.n, step)))


def scheduled(network: Network, schedule: bytes, order: Sequence[int], faults: bytes = b"") -> None:
    """Each byte of the schedule, over and over, picks among the steps, those of peers early in `order` first.

    Each byte of the faults, once, is a disturbance before one of the first steps: a message delivered again or a link
    that breaks.
    """
    links = sorted(network.links)
    for count in range(MAX_STEPS):
        if count < 4 * len(faults) and count % 4 == 0:
            fault = faults[count // 4]
            link = links[fault % len(links)]
            if fault % 3 == 0:
                network.reconnect(*link, lost=fault % 7)
            elif fault % 3 == 1:
                network.repeat(*link, which=fault)
            else:
                network.repeat(*link, which=-1)
        options = network.options()
        if not options:
            return
        options.sort(key=lambda step: (order.index(step[2]), step))
        network.do(options[schedule[count % len(schedule)] % len(options)])
    raise AssertionError("the peers go on for ever")


def check(network: Network) -> None:
    network.check_finished()
    results = expected(network.setting)[network.setting.last_round]
    for mine, theirs in zip(network.vectors, results, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: "-".join(map(str, network)))
@pytest.mark.parametrize("overlapped", [False, True], ids=["atc", "overlapped"])
@pytest.mark.parametrize("codec", ["fp32", "bf16"])
@pytest.mark.parametrize("chunk", CHUNKS)
def test_in_order(network: tuple[str, int], overlapped: bool, codec: str, chunk: int) -> None:
    made = setting(*network, overlapped, codec)
    with small_chunks(chunk):
        peers = Network(made)
        in_order(peers)
        check(peers)
        sizes = [40 * made.algorithm(round).encodings["x"].item_bytes for round in range(1, made.last_round + 1)]
        chunks = sum(map(wire.chunk_count, sizes))
    assert not any(peer.refused for peer in peers.peers)
    for sender, receiver in peers.links:
        kinds = Counter(flying.message.header.kind for flying in peers.delivered[sender, receiver])
        there = chunks if made.w[receiver, sender] else 0
        back = made.last_round if made.w[sender, receiver] else 0
        # Nothing is said twice.
        assert kinds == Counter({"hello": 1, "chunk": there, "grant": back, "ack": back, "goodbye": 1})


schedules = st.binary(min_size=1, max_size=48)


@settings(max_examples=50 * THOROUGHNESS, deadline=None)
@given(
    data=st.data(),
    network=st.sampled_from(NETWORKS),
    overlapped=st.booleans(),
    codec=st.sampled_from(["fp32", "bf16"]),
    schedule=schedules,
    chunk=st.sampled_from(CHUNKS),
)
def test_any_order_of_arrival(
    data: st.DataObject, network: tuple[str, int], overlapped: bool, codec: str, schedule: bytes, chunk: int
) -> None:
    order = data.draw(st.permutations(range(network[1])))
    with small_chunks(chunk):
        peers = Network(setting(*network, overlapped, codec))
        scheduled(peers, schedule, order)
    check(peers)
    assert not any(peer.refused for peer in peers.peers)


@settings(max_examples=60 * THOROUGHNESS, deadline=None)
@given(
    data=st.data(),
    network=st.sampled_from(NETWORKS),
    overlapped=st.booleans(),
    codec=st.sampled_from(["fp32", "bf16"]),
    schedule=schedules,
    faults=st.binary(max_size=120),
    chunk=st.sampled_from(CHUNKS),
)
def test_any_order_with_duplicates_and_broken_links(
    data: st.DataObject,
    network: tuple[str, int],
    overlapped: bool,
    codec: str,
    schedule: bytes,
    faults: bytes,
    chunk: int,
) -> None:
    order = data.draw(st.permutations(range(network[1])))
    with small_chunks(chunk):
        peers = Network(setting(*network, overlapped, codec, rounds=2))
        scheduled(peers, schedule, order, faults)
    check(peers)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: "-".join(map(str, network)))
@pytest.mark.parametrize("overlapped", [False, True], ids=["atc", "overlapped"])
@pytest.mark.parametrize("codec", ["fp32", "bf16"])
def test_a_link_that_breaks_wherever_a_vector_is_partly_folded(
    network: tuple[str, int], overlapped: bool, codec: str
) -> None:
    broken: set[tuple[int, int, int, int]] = set()  # round, sender, receiver, elements folded
    with small_chunks(48):
        peers = Network(setting(*network, overlapped, codec, rounds=2))
        for count in range(MAX_STEPS):
            for receiver, parts in enumerate(peers.parts):
                for (round, sender), folded in parts.items():
                    place = (round, sender, receiver, folded)
                    if place not in broken:
                        broken.add(place)
                        peers.reconnect(sender, receiver, lost=count % 4)
            options = peers.options()
            if not options:
                break
            peers.do(options[count % len(options)])
    check(peers)
    assert {round for round, *_ in broken} == set(range(1, peers.setting.last_round + 1))


@functools.cache
def snapshots(setting_: Setting) -> dict[tuple[int, int], Snapshot]:
    peers = Network(setting_)
    in_order(peers)
    return peers.snapshots


@settings(max_examples=40 * THOROUGHNESS, deadline=None)
@given(
    data=st.data(),
    network=st.sampled_from(NETWORKS),
    overlapped=st.booleans(),
    codec=st.sampled_from(["fp32", "bf16"]),
    schedule=schedules,
    faults=st.binary(max_size=30),
    chunk=st.sampled_from(CHUNKS),
)
def test_peers_one_round_apart_resume_to_the_same_bits(
    data: st.DataObject,
    network: tuple[str, int],
    overlapped: bool,
    codec: str,
    schedule: bytes,
    faults: bytes,
    chunk: int,
) -> None:
    made = setting(*network, overlapped, codec)
    done = data.draw(st.integers(0, made.training_rounds))  # by the peers behind
    ahead = data.draw(st.lists(st.booleans(), min_size=made.n, max_size=made.n))
    # Consensus rounds are not checkpointed: nobody is ahead of the last training round.
    rounds = [min(done + more, made.training_rounds) for more in ahead]
    saved = [(round + 1, snapshots(made).get((peer, round))) for peer, round in enumerate(rounds)]
    with small_chunks(chunk):
        peers = Network(made, saved)
        scheduled(peers, schedule, range(made.n), faults)
    check(peers)


def test_resuming_along_a_ring_with_peers_that_drifted_apart() -> None:
    made = setting("ring", 8, rounds=5)
    rounds = [1, 2, 3, 4, 4, 3, 2, 1]  # neighbors are one round apart, the swarm is three
    peers = Network(made, [(done + 1, snapshots(made)[peer, done]) for peer, done in enumerate(rounds)])
    scheduled(peers, bytes(range(40)), range(8))
    check(peers)


def test_a_peer_that_resumes_two_rounds_behind_is_served_what_its_neighbors_have_kept() -> None:
    made = setting("ring", 4)
    rounds = [2, 2, 2, 0]  # peer 3's newest checkpoint was damaged
    kept = [{round: snapshots(made)[peer, round].sent for round in (1, 2)} for peer in range(3)]
    saved = [(done + 1, snapshots(made).get((peer, done))) for peer, done in enumerate(rounds)]
    peers = Network(made, saved, unsent=[*kept, {}])
    in_order(peers)
    check(peers)


def test_a_peer_that_resumes_too_far_behind_goes_straight_to_where_the_others_are() -> None:
    made = setting("ring", 4)
    rounds = [3, 3, 3, 0]  # and the others have kept no more than their last round
    peers = Network(made, [(done + 1, snapshots(made).get((peer, done))) for peer, done in enumerate(rounds)])
    in_order(peers)
    assert set(peers.ended.values()) == {Finish()}
    assert peers.folds[3][0][0] == 3  # which they can still serve
    assert all(bool(x.isfinite().all()) for x in peers.vectors)


def test_a_peer_that_finished_hears_nothing_more() -> None:
    peers = Network(setting("path", 2))
    in_order(peers)
    assert peers.ended == {0: Finish(), 1: Finish()}
    hello = peers.delivered[0, 1][0].arrive()
    assert peers.peers[1].handle(hello, 1e12) == []
