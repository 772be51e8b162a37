"""State machines of many peers: every order of events ends with the same bits."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.gossip_scenario import Gossip, Setting, Snapshot, reference, small_chunks
from tests.support.helpers import THOROUGHNESS, matrix

from p2pfl.algorithms import DPSGD, Chebyshev
from p2pfl.protocol import wire
from p2pfl.protocol.events import Fail, Finish
from p2pfl.sim.interleaving import Interleaving
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


def in_order(peers: Gossip) -> Interleaving:
    """The peers take turns, to the end."""
    run = Interleaving(peers)
    run.take_turns()
    return run


def scheduled(peers: Gossip, schedule: bytes, order: Sequence[int], faults: bytes = b"") -> Interleaving:
    """Pick events by the bytes of a schedule, repeated; peers early in `order` first.

    Each byte of the faults, once, is a disturbance before one of the first events: a message delivered again or a link
    that breaks.
    """
    run = Interleaving(peers)
    links = [(a, b) for a, b, _ in run.links.all()]
    for count in range(MAX_STEPS):
        if count < 4 * len(faults) and count % 4 == 0:
            fault = faults[count // 4]
            link = links[fault % len(links)]
            if fault % 3 == 0:
                run.cut(*link, kept=fault % 2, lost=fault % 7)
            else:
                run.repeat(*link, which=fault if fault % 3 == 1 else -1)
        options = run.options()
        if not options:
            return run
        options.sort(key=lambda step: (order.index(step.actor), step))
        run.do(options[schedule[count % len(schedule)] % len(options)])
    raise AssertionError("the peers continue without end")


def check(peers: Gossip, run: Interleaving) -> None:
    peers.check_finished(run)
    results = expected(peers.setting)[peers.setting.last_round]
    for mine, theirs in zip(peers.vectors, results, strict=True):
        assert torch.equal(mine, theirs)


def refused(peers: Gossip) -> bool:
    return any(peer.refused for peer in peers.peers.values())


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: "-".join(map(str, network)))
@pytest.mark.parametrize("overlapped", [False, True], ids=["atc", "overlapped"])
@pytest.mark.parametrize("codec", ["fp32", "bf16"])
@pytest.mark.parametrize("chunk", CHUNKS)
def test_in_order(network: tuple[str, int], overlapped: bool, codec: str, chunk: int) -> None:
    made = setting(*network, overlapped, codec)
    with small_chunks(chunk):
        peers = Gossip(made)
        run = in_order(peers)
        check(peers, run)
        sizes = [40 * made.algorithm(round).encodings["x"].item_bytes for round in range(1, made.last_round + 1)]
        chunks = sum(map(wire.chunk_count, sizes))
    assert not refused(peers)
    for sender, receiver, link in run.links.all():
        there = chunks if made.w[receiver, sender] else 0
        back = made.last_round if made.w[sender, receiver] else 0
        # Nothing is said twice.
        assert +link.sent == +Counter({"hello": 1, "chunk": there, "grant": back, "ack": back, "goodbye": 1})


schedules = st.binary(min_size=1, max_size=48)


@settings(max_examples=25 * THOROUGHNESS, deadline=None)
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
        peers = Gossip(setting(*network, overlapped, codec))
        run = scheduled(peers, schedule, order)
    check(peers, run)
    assert not refused(peers)


@settings(max_examples=30 * THOROUGHNESS, deadline=None)
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
        peers = Gossip(setting(*network, overlapped, codec, rounds=2))
        run = scheduled(peers, schedule, order, faults)
    check(peers, run)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: "-".join(map(str, network)))
@pytest.mark.parametrize("overlapped", [False, True], ids=["atc", "overlapped"])
@pytest.mark.parametrize("codec", ["fp32", "bf16"])
def test_a_link_that_breaks_wherever_a_vector_is_partly_folded(
    network: tuple[str, int], overlapped: bool, codec: str
) -> None:
    broken: set[tuple[int, int, int, int]] = set()  # round, sender, receiver, elements folded
    with small_chunks(48):
        peers = Gossip(setting(*network, overlapped, codec, rounds=2))
        run = Interleaving(peers)
        for count in range(MAX_STEPS):
            for receiver, parts in enumerate(peers.parts):
                for (round, sender), folded in parts.items():
                    place = (round, sender, receiver, folded)
                    if place not in broken:
                        broken.add(place)
                        run.cut(sender, receiver, lost=count % 4)
            options = run.options()
            if not options:
                break
            run.do(options[count % len(options)])
    check(peers, run)
    assert {round for round, *_ in broken} == set(range(1, peers.setting.last_round + 1))


@functools.cache
def snapshots(setting_: Setting) -> dict[tuple[int, int], Snapshot]:
    peers = Gossip(setting_)
    in_order(peers)
    return peers.snapshots


def saved(made: Setting, rounds: Sequence[int]) -> dict[int, tuple[int, Snapshot]]:
    """Checkpoints of peers that have done so many rounds each."""
    return {peer: (done, snapshots(made)[peer, done]) for peer, done in enumerate(rounds) if done}


@settings(max_examples=20 * THOROUGHNESS, deadline=None)
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
    peers = Gossip(made, saved(made, rounds))
    with small_chunks(chunk):
        run = scheduled(peers, schedule, range(made.n), faults)
    check(peers, run)


def test_resuming_along_a_ring_with_peers_that_drifted_apart() -> None:
    made = setting("ring", 8, rounds=5)
    rounds = [1, 2, 3, 4, 4, 3, 2, 1]  # neighbors are one round apart, the swarm is three
    peers = Gossip(made, saved(made, rounds))
    check(peers, scheduled(peers, bytes(range(40)), range(8)))


def test_a_peer_that_resumes_two_rounds_behind_is_served_what_its_neighbors_have_kept() -> None:
    made = setting("ring", 4)
    peers = Gossip(made, saved(made, [2, 2, 2, 0]))  # peer 3's newest checkpoint was damaged
    for peer in range(3):
        peers.pending[peer] = {round: snapshots(made)[peer, round].sent for round in (1, 2)}
    check(peers, in_order(peers))


def test_a_peer_that_is_kept_away_first_serves_those_behind_it() -> None:
    made = setting("ring", 4, rounds=5)
    peers = Gossip(made, saved(made, [1, 2, 3, 2]))  # peer 0 lacks peer 1's vector of round 2
    peers.away_until[1] = 5
    run = in_order(peers)
    assert run.ended == dict.fromkeys(range(4), Finish())
    assert peers.absent == {0: [(3, ["p1"]), (4, ["p1"])], 1: [], 2: [(4, ["p1"])], 3: []}
    assert [round for round, _ in peers.folds[1]][::3] == [5, 6, 7]


def test_a_peer_that_does_not_come_back_serves_those_behind_it_before_it_ends() -> None:
    made = setting("path", 2)
    peers = Gossip(made, saved(made, [1, 2]))
    peers.away_until[1], peers.max_missing = made.last_round + 1, 1
    run = Interleaving(peers, grace=1.0)
    while run.advance():
        pass
    assert run.ended == {0: Finish(), 1: Fail("stays away, as the fault script says")}
    assert peers.absent[0] == [(round, ["p1"]) for round in range(3, made.last_round + 1)]


def test_a_peer_that_resumes_too_far_behind_goes_straight_to_where_the_others_are() -> None:
    made = setting("ring", 4)
    peers = Gossip(made, saved(made, [3, 3, 3, 0]))  # and the others have kept no more than their last round
    run = in_order(peers)
    assert run.ended == dict.fromkeys(range(4), Finish())
    assert peers.folds[3][0][0] == 3  # which they can still serve
    assert all(bool(x.isfinite().all()) for x in peers.vectors)


def test_a_peer_that_has_finished_ignores_greetings() -> None:
    peers = Gossip(setting("path", 2))
    run = in_order(peers)
    assert run.ended == {0: Finish(), 1: Finish()}
    hello = run.links.between(0, 1).delivered[0]
    assert hello.kind == "hello"
    assert peers.peers[1].handle(hello.event(), 1e12) == []
