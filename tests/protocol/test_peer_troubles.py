"""Many state machines amid crashes, freezes and cuts: who lives finishes, and equal weights stay equal."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tests.support.helpers import THOROUGHNESS, matrix
from tests.support.peer_network import Setting, small_chunks
from tests.support.troubled_network import Troubled

from p2pfl.algorithms import DPSGD, Chebyshev
from p2pfl.protocol.events import Fail, Finish
from p2pfl.topology import is_symmetric, spectral_gap

NETWORKS = [("ring", 4), ("star", 5), ("complete", 6), ("path", 3), ("torus", 9)]


@functools.cache
def setting(kind: str, n: int, overlapped: bool = False, codec: str = "fp32", rounds: int = 6) -> Setting:
    w = matrix(kind, n)
    contraction = 1 - spectral_gap(w) if is_symmetric(w) else 0.0
    return Setting(w, DPSGD(overlapped, codec), Chebyshev(contraction, first_round=rounds + 1), training_rounds=rounds)


def until(network: Troubled, condition) -> None:  # type: ignore[no-untyped-def]
    """Go on until something holds."""
    for _ in range(5000):
        if condition():
            return
        assert network.go_on(), "nothing happens any more"
    raise AssertionError("never came true")


def in_round(network: Troubled, peer: int, round: int) -> bool:
    machine = network.peers[peer]
    return machine is not None and machine.round >= round


def in_training(network: Troubled, peer: int) -> bool:
    machine = network.peers[peer]
    return machine is not None and machine.round <= network.setting.training_rounds


def finished(network: Troubled, but: set[int] = frozenset()) -> None:  # type: ignore[assignment]
    for peer in range(network.setting.n):
        if peer not in but:
            assert network.ended.get(peer) == Finish(), (peer, network.ended.get(peer), network.news)


@pytest.mark.parametrize("kind", NETWORKS, ids=str)
@pytest.mark.parametrize("overlapped", [False, True])
@pytest.mark.parametrize("codec", ["fp32", "bf16"])
def test_a_peer_that_dies_is_done_without(kind: tuple[str, int], overlapped: bool, codec: str) -> None:
    with small_chunks(48):
        network = Troubled(setting(*kind, overlapped, codec), spare=kind[1])
        until(network, lambda: in_round(network, 1, 3))
        network.crash(1)
        network.run()
    finished(network, but={1})
    for other in network.links(1):
        rounds = [round for round, absent in network.absent[other] if absent == ["p1"]]
        assert rounds
        assert rounds == list(range(rounds[0], network.setting.last_round + 1))
        assert 2 <= rounds[0] <= 4  # what was under way is lost with it


def test_a_death_too_many_ends_the_run_and_is_named() -> None:
    network = Troubled(setting("ring", 4), spare=0)
    until(network, lambda: in_round(network, 1, 3))
    network.crash(1)
    network.run()
    reasons = {peer: end.reason for peer, end in network.ended.items() if isinstance(end, Fail)}
    assert "lost the connection to peer p1 in round" in reasons[0] + reasons.get(2, "")


@pytest.mark.parametrize("kind", NETWORKS, ids=str)
@pytest.mark.parametrize("overlapped", [False, True])
@pytest.mark.parametrize("codec", ["fp32", "bf16"])
def test_a_restart_within_the_grace_period_costs_the_others_nothing(
    kind: tuple[str, int], overlapped: bool, codec: str
) -> None:
    """It repeats its last round; vectors that it lost and its neighbors no longer have are missing in that one only."""
    with small_chunks(48):
        for steps in range(0, 400, 97):
            network = Troubled(setting(*kind, overlapped, codec), spare=0)
            for _ in range(steps):
                network.go_on()
            if not in_training(network, 1):
                return
            repeated = network.saved[1][0] + 1 if 1 in network.saved else 1
            network.crash(1)
            network.restart(1)
            network.run()
            finished(network)
            assert not any(missing for peer, missing in network.absent.items() if peer != 1)
            assert {round for round, _ in network.absent[1]} <= {repeated}


def test_a_peer_that_comes_back_late_goes_to_where_the_others_are() -> None:
    network = Troubled(setting("ring", 4, rounds=12), spare=3)
    until(network, lambda: in_round(network, 1, 3))
    network.crash(1)
    until(network, lambda: in_round(network, 0, 7) and in_round(network, 2, 7))
    network.restart(1)
    network.run()
    finished(network)
    for other in (0, 2):
        gone = [round for round, absent in network.absent[other] if absent == ["p1"]]
        assert gone == list(range(gone[0], gone[-1] + 1))
        assert gone[-1] <= 9
    assert any("goes straight to round" in text for me, text in network.news if me == 1)
    assert any("is back from round" in text for me, text in network.news if me == 0)


def test_a_peer_without_a_checkpoint_takes_over_a_neighbors_weights() -> None:
    network = Troubled(setting("ring", 4, rounds=12), spare=3)
    until(network, lambda: in_round(network, 1, 2))
    network.crash(1)
    until(network, lambda: in_round(network, 0, 7) and in_round(network, 2, 7))
    network.saved.pop(1)
    network.start_vector, honest = network.start_vector * 0 + 77.0, network.start_vector  # what a new life starts with
    network.restart(1)
    network.start_vector = honest
    network.run()
    finished(network)  # and the weights of all were checked after every round
    assert {me for me, text in network.news if "takes over the weights of peer" in text} == {1}


@pytest.mark.parametrize(
    ("kind", "lost"),
    [(("ring", 8), {2, 3, 4, 5}), (("path", 5), {0, 1, 2}), (("star", 5), {0, 1, 2}), (("complete", 6), {0, 4})],
    ids=str,
)
def test_peers_that_lost_their_weights_get_them_from_whoever_has_some(kind: tuple[str, int], lost: set[int]) -> None:
    """Also where all neighbors have lost theirs: nobody goes on from initial weights while others are ahead."""
    network = Troubled(setting(*kind, rounds=14), spare=0)
    until(network, lambda: all(in_round(network, peer, 6) for peer in range(kind[1])))
    network.resume_all(lost)
    network.run()
    finished(network)  # and the weights of all were checked after every round
    told = {me for me, text in network.news if "takes over the weights of peer" in text}
    assert told == lost


def test_where_all_have_lost_their_weights_the_run_ends() -> None:
    network = Troubled(setting("ring", 4, rounds=12), spare=0)
    until(network, lambda: all(in_round(network, peer, 4) for peer in range(4)))
    network.resume_all({0, 1, 2, 3})
    network.run()
    for end in network.ended.values():
        assert isinstance(end, Fail)
    reasons = {end.reason for end in network.ended.values() if isinstance(end, Fail)}
    assert any(reason.endswith("start a new run without --resume") for reason in reasons)


def test_a_peer_that_lost_its_first_round_does_it_again_with_those_who_are_there() -> None:
    """Its neighbors had not saved that round: they are no further, so nothing is lost but time."""
    network = Troubled(setting("path", 3, rounds=6), spare=0)
    network.resume_all({0, 1}, initial=1.0)
    network.run()
    finished(network)
    assert not any("takes over" in text for _, text in network.news)


def test_a_frozen_peer_is_given_up_and_catches_up_when_it_wakes() -> None:
    network = Troubled(setting("ring", 8, rounds=12), spare=7)
    until(network, lambda: in_round(network, 1, 3))
    network.frozen.add(1)
    until(network, lambda: all(in_round(network, peer, 8) for peer in (0, 2)))
    network.frozen.discard(1)
    network.run()
    finished(network)
    given_up = {text for _, text in network.news if "continues without" in text}
    assert all("peer p1" in text for text in given_up), "those who waited for the frozen one are not given up"
    assert not any(absent != ["p1"] for me in (0, 2) for _, absent in network.absent[me])


def test_a_late_starter_joins() -> None:
    network = Troubled(setting("ring", 5, rounds=12), spare=4)
    network.crash(4)  # before anything came of it
    until(network, lambda: in_round(network, 0, 3))
    network.restart(4)
    network.run()
    finished(network)
    assert network.lives[4] == 2000


def test_parts_go_on_and_come_together_again() -> None:
    network = Troubled(setting("path", 4, rounds=12), spare=3)
    until(network, lambda: in_round(network, 1, 3))
    network.break_link(1, 2)
    until(network, lambda: in_round(network, 1, 6) and in_round(network, 2, 6))
    network.mend_link(1, 2)
    network.run()
    finished(network)
    for me, other in ((1, "p2"), (2, "p1")):
        gone = [round for round, absent in network.absent[me] if absent == [other]]
        assert gone
        assert gone[-1] < 12


TROUBLES = ["crash", "restart", "freeze", "wake", "break", "mend"]


@settings(max_examples=60 * THOROUGHNESS, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    kind=st.sampled_from(NETWORKS),
    overlapped=st.booleans(),
    codec=st.sampled_from(["fp32", "bf16"]),
    chunk=st.sampled_from([48, 1 << 20]),
    schedule=st.binary(min_size=1, max_size=40),
    troubles=st.lists(
        st.tuples(st.integers(0, 60), st.sampled_from(TROUBLES), st.integers(0, 63), st.integers(0, 63)), max_size=10
    ),
)
def test_whatever_happens_the_living_finish_with_equal_weights(
    kind: tuple[str, int],
    overlapped: bool,
    codec: str,
    chunk: int,
    schedule: bytes,
    troubles: list[tuple[int, str, int, int]],
) -> None:
    with small_chunks(chunk):
        network = Troubled(setting(*kind, overlapped, codec), spare=kind[1])
        count = 0
        for wait, trouble, one, two in troubles:
            for _ in range(wait):
                network.go_on(schedule[count % len(schedule)])
                count += 1
            me = one % network.setting.n
            other = sorted(network.links(me))[two % len(network.links(me))]
            if trouble == "crash":
                network.crash(me)
            elif trouble == "restart":
                network.restart(me)
            elif trouble == "freeze" and network.peers[me] is not None:
                network.frozen.add(me)
            elif trouble == "wake":
                network.frozen.discard(me)
            elif trouble == "break":
                network.break_link(me, other)
            elif trouble == "mend":
                network.mend_link(me, other)
        network.frozen.clear()
        for link in list(network.cut):
            network.mend_link(*sorted(link))
        network.run()
    for me in range(network.setting.n):
        if network.peers[me] is not None:
            end = network.ended.get(me)
            late = isinstance(end, Fail) and (
                "had finished" in end.reason or "no neighbor is left" in end.reason or "no greeting" in end.reason
            )
            assert end == Finish() or late, (me, end, network.news)
    assert np.isfinite(network.vectors[0].numpy()).all()
