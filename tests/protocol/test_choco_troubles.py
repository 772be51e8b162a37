"""Replicas of CHOCO-SGD amid crashes and pauses: the same at both ends."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tests.support.gossip_scenario import Gossip, Setting, Steady, small_chunks
from tests.support.helpers import THOROUGHNESS, matrix
from torch import Tensor

from p2pfl.algorithms import Chebyshev
from p2pfl.algorithms.choco import Choco
from p2pfl.algorithms.compression import Compression
from p2pfl.protocol.events import Action, Finish, Recorded, RoundDone, Train, Trained
from p2pfl.protocol.inbox import WINDOW
from p2pfl.sim.interleaving import Interleaving

N, ROUNDS, GRACE = 4, 8, 5.0
PHASES = [Phase.explicit, Phase.reuse, Phase.generate]
ALGORITHMS = [Choco(Compression("top-k", 0.2), 0.3), Choco(Compression("int8"), 0.8, (slice(5, 9),))]


class Differing(Steady):
    """Peers whose weights differ; training moves them, always alike."""

    def start_of(self, me: int) -> Tensor:
        return self.setting.initial()[me] * self.start_scale

    def train(self, me: int, round: int) -> None:
        Gossip.train(self, me, round)

    def check(self, me: int, actions: Sequence[Action]) -> None:
        """Check the inbox's own count: a peer that jumps folds less than it granted."""
        assert self.peers[me].channel.inbox.outstanding <= WINDOW

    def complete(self, me: int, action: Train | RoundDone) -> Trained | Recorded:
        return Gossip.complete(self, me, action)


class Swarm:
    def __init__(self, algorithm: Choco) -> None:
        made = Setting(matrix("ring", N), algorithm, Chebyshev(0.0), training_rounds=ROUNDS)
        self.peers = Differing(made, spare=N)
        self.run = Interleaving(self.peers, GRACE)

    def advance(self, count: int, schedule: Sequence[int] = ()) -> None:
        for number in range(count):
            self.run.advance(schedule[number % len(schedule)] if schedule else None)

    def to_the_end(self) -> None:
        for _ in range(100_000):
            if not self.run.advance():
                return
        raise AssertionError("the peers continue without end")

    def check_replicas(self) -> int:
        """Number of directions in which both ends are in the same round."""
        found = 0
        for me in range(N):
            for other in self.peers.links(me):
                if (me, ROUNDS) not in self.peers.snapshots or (other, ROUNDS) not in self.peers.snapshots:
                    continue
                mine, theirs = self.peers.snapshots[me, ROUNDS].state, self.peers.snapshots[other, ROUNDS].state
                ends = [(mine, f"mine.{other}"), (theirs, f"theirs.{me}")]
                if any(state.get(f"{name}.round") != ROUNDS for state, name in ends):
                    continue
                vectors = [state[f"vector.{int(state[f'{name}.place'])}"] for state, name in ends]
                assert torch.equal(*vectors)  # type: ignore[arg-type]
                found += 1
        return found


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda algorithm: algorithm.compression.kind)
def test_without_faults_all_replicas_agree(algorithm: Choco) -> None:
    swarm = Swarm(algorithm)
    swarm.to_the_end()
    assert swarm.check_replicas() == 2 * N


@settings(max_examples=15 * THOROUGHNESS, deadline=None, phases=PHASES)
@given(
    algorithm=st.sampled_from(ALGORITHMS),
    victim=st.integers(0, N - 1),
    steps=st.integers(0, 400),
    later=st.integers(0, 200),
    returns=st.sampled_from(["restarts", "restarts empty", "wakes", "never"]),
    chunk=st.sampled_from([48, 1 << 20]),
    schedule=st.lists(st.integers(0, 40), min_size=1, max_size=30),
)
def test_replicas_agree_after_crashes_and_pauses(
    algorithm: Choco, victim: int, steps: int, later: int, returns: str, chunk: int, schedule: list[int]
) -> None:
    with small_chunks(chunk):
        swarm = Swarm(algorithm)
        swarm.advance(steps, schedule)
        if victim not in swarm.run.live or swarm.peers.peers[victim].round > ROUNDS - 2:
            return
        if returns == "wakes":
            swarm.run.pause(victim)
        else:
            swarm.run.kill(victim)
        swarm.advance(later, schedule)
        if returns == "wakes":
            swarm.run.wake(victim)
        elif returns != "never":
            if returns == "restarts empty":
                swarm.peers.saved.pop(victim, None)
            swarm.run.restart(victim)
        swarm.to_the_end()
    for peer in range(N):
        if peer != victim:
            assert swarm.run.ended.get(peer) == Finish()
    assert swarm.check_replicas() >= 2 * (N - 2) - 2
    for (_, _), snapshot in swarm.peers.snapshots.items():
        assert bool(torch.isfinite(snapshot.x).all())
