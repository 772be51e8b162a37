"""Peers amid crashes, pauses and cuts: the living finish with equal weights."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tests.support.gossip_scenario import Setting, Steady, small_chunks
from tests.support.helpers import THOROUGHNESS, matrix

from p2pfl.algorithms import DPSGD, Chebyshev
from p2pfl.protocol.events import Fail, Finish
from p2pfl.sim.interleaving import Interleaving
from p2pfl.sim.link import Link
from p2pfl.topology import is_symmetric, spectral_gap

NETWORKS = [("ring", 4), ("star", 5), ("complete", 6), ("path", 3), ("torus", 9)]
WAYS = [(False, "fp32"), (True, "bf16")]  # orders and number formats; the last test mixes them


@functools.cache
def setting(kind: str, n: int, overlapped: bool = False, codec: str = "fp32", rounds: int = 6) -> Setting:
    w = matrix(kind, n)
    contraction = 1 - spectral_gap(w) if is_symmetric(w) else 0.0
    return Setting(w, DPSGD(overlapped, codec), Chebyshev(contraction, first_round=rounds + 1), training_rounds=rounds)


GRACE = 5.0


class Swarm:
    """Peers with the same weights under a clock, and what happens to them."""

    def __init__(self, made: Setting, spare: int) -> None:
        self.peers = Steady(made, spare)
        self.run = Interleaving(self.peers, GRACE)

    @property
    def news(self) -> list[tuple[int, str]]:
        return [(me, note.text) for me, note in self.run.notes if note.matters]

    def until(self, *peers: int, round: int) -> None:
        """Continue until some peers are in a round."""
        for _ in range(5000):
            if all(peer in self.run.logics and self.run.logics[peer].round >= round for peer in peers):
                return
            assert self.run.advance(), "nothing is left to happen"
        raise AssertionError("never came true")

    def to_the_end(self) -> None:
        for _ in range(100_000):
            if not self.run.advance():
                return
        raise AssertionError(f"the peers continue without end: {self.news[-20:]}")

    def stop_and_resume(self, lost: set[int], initial: float = 77.0) -> None:
        """Stop all at once, and start them again; some have lost what they had saved.

        `initial`: factor of the weights of a peer without any.
        """
        for me in lost:
            self.peers.saved.pop(me, None)
        self.peers.lost_weights, self.peers.start_scale = frozenset(lost), initial
        self.run = Interleaving(self.peers, GRACE)
        self.peers.start_scale = 1.0

    def links(self, a: int, b: int) -> tuple[Link, Link]:
        return self.run.links.between(a, b), self.run.links.between(b, a)

    def rounds_without(self, me: int, other: str) -> list[int]:
        return [round for round, absent in self.peers.absent[me] if absent == [other]]

    def check_finished(self, but: int | None = None) -> None:
        for peer in range(self.peers.processes):
            if peer != but:
                assert self.run.ended.get(peer) == Finish(), (peer, self.run.ended.get(peer), self.news)


@pytest.mark.parametrize("kind", NETWORKS, ids=str)
@pytest.mark.parametrize(("overlapped", "codec"), WAYS)
def test_the_others_continue_without_a_peer_that_died(kind: tuple[str, int], overlapped: bool, codec: str) -> None:
    with small_chunks(48):
        swarm = Swarm(setting(*kind, overlapped, codec), spare=kind[1])
        swarm.until(1, round=3)
        swarm.run.kill(1)
        swarm.to_the_end()
    swarm.check_finished(but=1)
    for other in swarm.peers.links(1):
        rounds = swarm.rounds_without(other, "p1")
        assert rounds
        assert rounds == list(range(rounds[0], swarm.peers.setting.last_round + 1))
        assert 2 <= rounds[0] <= 4  # what was under way is lost with it


def test_a_death_too_many_ends_the_run_and_is_named() -> None:
    swarm = Swarm(setting("ring", 4), spare=0)
    swarm.until(1, round=3)
    swarm.run.kill(1)
    swarm.to_the_end()
    reasons = {peer: end.reason for peer, end in swarm.run.ended.items() if isinstance(end, Fail)}
    assert "lost the connection to peer p1 in round" in reasons[0] + reasons.get(2, "")


@pytest.mark.parametrize("kind", ["ring", "star", "complete"])
def test_a_link_that_is_down_at_the_very_end_fails_nobody(kind: str) -> None:
    """The acknowledgement of peer 0's last vector is lost with the link.

    Peer 1's own vector has come before.
    """
    swarm = Swarm(setting(kind, 8), spare=0)
    run, last, there, back = swarm.run, swarm.peers.setting.last_round, *swarm.links(0, 1)
    while not any(packet.kind == "ack" and packet.round == last for packet in back.under_way):
        is_early = any(packet.kind == "chunk" and packet.round == last for packet in there.under_way)
        has_vector = swarm.peers.peers[0].channel.inbox.is_whole(last, 1)
        options = [s for s in run.options() if s[:2] != ("deliver", 0) or s.actor != 1 or has_vector or not is_early]
        run.do(options[0])
    run.cut(1, 0, heals=False)
    swarm.to_the_end()
    swarm.check_finished()
    assert not any(swarm.peers.absent.values()), "all vectors have come"
    assert any("only its last acknowledgement is missing" in text for me, text in swarm.news if me == 0)


def test_a_vector_that_is_lost_at_the_very_end_fails_the_peer_that_needs_it() -> None:
    swarm = Swarm(setting("path", 2), spare=0)
    run, last, link = swarm.run, swarm.peers.setting.last_round, swarm.links(1, 0)[0]
    while not any(packet.kind == "chunk" and packet.round == last for packet in link.under_way):
        assert run.advance()
    run.cut_both(1, 0)
    swarm.to_the_end()
    assert isinstance(run.ended[0], Fail)
    assert run.ended[0].reason == f"lost the connection to peer p1 in round {last}"


@pytest.mark.parametrize("kind", NETWORKS[:-1], ids=str)
@pytest.mark.parametrize(("overlapped", "codec"), WAYS)
def test_a_restart_within_the_grace_period_costs_the_others_nothing(
    kind: tuple[str, int], overlapped: bool, codec: str
) -> None:
    """It repeats its last round; vectors that nobody has are missing in that one only."""
    with small_chunks(48):
        for steps in range(0, 400, 97):
            swarm = Swarm(setting(*kind, overlapped, codec), spare=0)
            for _ in range(steps):
                swarm.run.advance()
            if swarm.peers.peers[1].round > swarm.peers.setting.training_rounds:
                return
            repeated = swarm.peers.saved[1][0] + 1 if 1 in swarm.peers.saved else 1
            swarm.run.kill(1)
            swarm.run.restart(1)
            swarm.to_the_end()
            swarm.check_finished()
            assert not any(missing for peer, missing in swarm.peers.absent.items() if peer != 1)
            assert {round for round, _ in swarm.peers.absent[1]} <= {repeated}


@pytest.mark.parametrize("overlapped", [False, True])
def test_what_a_killed_peer_sent_last_is_void_once_its_next_start_has_greeted(overlapped: bool) -> None:
    """Nobody waits for a timeout; what a broken link has lost may be asked for again."""
    stale = 0
    with small_chunks(80):
        for steps in range(2, 120, 13):
            swarm = Swarm(setting("ring", 4, overlapped, rounds=3), spare=0)
            run = swarm.run
            while run.advance() and (steps > 0 or not run.links.between(1, 2).under_way):
                steps -= 1
            run.kill(1)
            run.restart(1)
            while (options := run.options()) or run.pass_time():
                fresh = [step for step in options if step.kind != "deliver-unread"]
                late = [step for step in options if step not in fresh and has_greeted(run, step.actor)]
                for step in (late or fresh or options)[:1]:
                    stale += step in late
                    run.do(step)
            swarm.check_finished()
            assert run.now < swarm.peers.timeouts.round
    assert stale > 0


def has_greeted(run: Interleaving, receiver: int) -> bool:
    """Whether a peer has read the greeting of peer 1's second start."""
    return [packet.kind for packet in run.links.between(1, receiver).delivered].count("hello") > 1


def test_a_peer_that_comes_back_late_goes_to_where_the_others_are() -> None:
    swarm = Swarm(setting("ring", 4, rounds=12), spare=3)
    swarm.until(1, round=3)
    swarm.run.kill(1)
    swarm.until(0, 2, round=7)
    swarm.run.restart(1)
    swarm.to_the_end()
    swarm.check_finished()
    for other in (0, 2):
        gone = swarm.rounds_without(other, "p1")
        assert gone == list(range(gone[0], gone[-1] + 1))
        assert gone[-1] <= 9
    assert any("goes straight to round" in text for me, text in swarm.news if me == 1)
    assert any("is back from round" in text for me, text in swarm.news if me == 0)


def test_a_peer_without_a_checkpoint_takes_over_a_neighbors_weights() -> None:
    swarm = Swarm(setting("ring", 4, rounds=12), spare=3)
    swarm.until(1, round=2)
    swarm.run.kill(1)
    swarm.until(0, 2, round=7)
    swarm.peers.saved.pop(1)
    swarm.peers.start_scale = 77.0  # of the weights that it starts with
    swarm.run.restart(1)
    swarm.to_the_end()
    swarm.check_finished()  # and the weights of all were checked after every round
    assert {me for me, text in swarm.news if "takes over the weights of peer" in text} == {1}


@pytest.mark.parametrize(
    ("kind", "lost"),
    [(("ring", 8), {2, 3, 4, 5}), (("path", 5), {0, 1, 2}), (("star", 5), {0, 1, 2}), (("complete", 6), {0, 4})],
    ids=str,
)
def test_peers_that_lost_their_weights_get_them_from_whoever_has_some(kind: tuple[str, int], lost: set[int]) -> None:
    """Nobody continues from initial weights while others are ahead.

    Also where all neighbors have lost theirs.
    """
    swarm = Swarm(setting(*kind, rounds=14), spare=0)
    swarm.until(*range(kind[1]), round=6)
    swarm.stop_and_resume(lost)
    swarm.to_the_end()
    swarm.check_finished()  # and the weights of all were checked after every round
    told = {me for me, text in swarm.news if "takes over the weights of peer" in text}
    assert told == lost


def test_where_all_have_lost_their_weights_the_run_ends() -> None:
    swarm = Swarm(setting("ring", 4, rounds=12), spare=0)
    swarm.until(*range(4), round=4)
    swarm.stop_and_resume({0, 1, 2, 3})
    swarm.to_the_end()
    for end in swarm.run.ended.values():
        assert isinstance(end, Fail)
    reasons = {end.reason for end in swarm.run.ended.values() if isinstance(end, Fail)}
    assert any(reason.endswith("start a new run without --resume") for reason in reasons)


def test_a_peer_that_lost_its_first_round_does_it_again_with_those_who_are_there() -> None:
    """Its neighbors had not saved that round: nothing is lost but time."""
    swarm = Swarm(setting("path", 3, rounds=6), spare=0)
    swarm.stop_and_resume({0, 1}, initial=1.0)
    swarm.to_the_end()
    swarm.check_finished()
    assert not any("takes over" in text for _, text in swarm.news)


def test_a_paused_peer_is_given_up_and_catches_up_when_it_wakes() -> None:
    swarm = Swarm(setting("ring", 8, rounds=12), spare=7)
    swarm.until(1, round=3)
    swarm.run.pause(1)
    swarm.until(0, 2, round=8)
    swarm.run.wake(1)
    swarm.to_the_end()
    swarm.check_finished()
    given_up = {text for _, text in swarm.news if "continues without" in text}
    assert all("peer p1" in text for text in given_up), "those who waited for the paused one are not given up"
    assert not any(absent != ["p1"] for me in (0, 2) for _, absent in swarm.peers.absent[me])


def test_a_late_starter_joins() -> None:
    swarm = Swarm(setting("ring", 5, rounds=12), spare=4)
    swarm.run.kill(4)  # before anything came of it
    swarm.until(0, round=3)
    swarm.run.restart(4)
    swarm.to_the_end()
    swarm.check_finished()
    assert swarm.peers.incarnations[4] == 2000


def test_parts_continue_and_come_together_again() -> None:
    swarm = Swarm(setting("path", 4, rounds=12), spare=3)
    swarm.until(1, round=3)
    swarm.run.cut_both(1, 2)
    swarm.until(1, 2, round=6)
    swarm.run.heal_both(1, 2)
    swarm.to_the_end()
    swarm.check_finished()
    for me, other in ((1, "p2"), (2, "p1")):
        gone = swarm.rounds_without(me, other)
        assert gone
        assert gone[-1] < 12


TROUBLES = ["kill", "restart", "pause", "wake", "cut_both", "heal_both"]


@settings(max_examples=30 * THOROUGHNESS, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
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
        swarm = Swarm(setting(*kind, overlapped, codec), spare=kind[1])
        run, count = swarm.run, 0
        for wait, trouble, one, two in troubles:
            for _ in range(wait):
                run.advance(schedule[count % len(schedule)])
                count += 1
            me = one % swarm.peers.processes
            others = sorted(swarm.peers.links(me))
            other = others[two % len(others)]
            if trouble == "kill":
                run.kill(me, kept=two % 5)
            elif trouble in ("restart", "pause", "wake"):
                getattr(run, trouble)(me)
            else:
                getattr(run, trouble)(me, other)
        for me in list(run.paused):
            run.wake(me)
        for me, other, _ in run.links.all():
            run.heal(me, other)
        swarm.to_the_end()
    for me in run.logics:
        end = run.ended.get(me)
        late = isinstance(end, Fail) and (
            "had finished" in end.reason or "no neighbor is left" in end.reason or "no greeting" in end.reason
        )
        assert end == Finish() or late, (me, end, swarm.news)
    assert np.isfinite(swarm.peers.vectors[0].numpy()).all()
