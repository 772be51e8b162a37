"""Many peers on a schedule: every order of events ends with the same bits."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.gossip_scenario import Gossip, Setting, reference
from tests.support.helpers import THOROUGHNESS

from p2pfl.algorithms import DPSGD, Chebyshev
from p2pfl.sim.interleaving import Interleaving
from p2pfl.topology import influence_rounds, make_topology, mixing_matrices

MAX_STEPS = 20_000
KINDS = [("base-k", 5, "weights"), ("one-peer-exponential", 8, "uniform"), ("random-matching", 5, "auto")]


@functools.cache
def setting(kind: str, n: int, mixing: str, overlapped: bool) -> Setting:
    w = np.array(mixing_matrices(make_topology(kind, n), mixing))
    return Setting(w, DPSGD(overlapped), Chebyshev(0.0), training_rounds=6)


@functools.cache
def expected(made: Setting) -> list[torch.Tensor]:
    return reference(made)[made.last_round]


@settings(max_examples=20 * THOROUGHNESS, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    overlapped=st.booleans(),
    order=st.binary(min_size=1, max_size=40),
    patient=st.integers(0, 7),
    faults=st.binary(max_size=12),
)
def test_every_order_of_events_and_broken_links_end_with_the_same_bits(
    kind: tuple[str, int, str], overlapped: bool, order: bytes, patient: int, faults: bytes
) -> None:
    """One peer comes last wherever others can act, so that these get far ahead."""
    made = setting(*kind, overlapped)
    peers = Gossip(made)
    run = Interleaving(peers)
    links = [(a, b) for a, b, _ in run.links.all()]
    for count in range(MAX_STEPS):
        if count < 4 * len(faults) and count % 4 == 0:
            fault = faults[count // 4]
            run.cut(*links[fault % len(links)], kept=fault % 2, lost=fault % 7)
        if not (options := run.options()):
            break
        options.sort(key=lambda step: (step.actor == patient, step))
        eager = [step for step in options if step.actor != patient] or options
        run.do(eager[order[count % len(order)] % len(eager)])
    peers.check_finished(run)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(peers.vectors, expected(made), strict=True))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind[0])
def test_no_peer_is_further_ahead_of_another_than_a_vector_takes_to_reach_all(kind: tuple[str, int, str]) -> None:
    made = setting(*kind, False)
    peers = Gossip(made)
    run = Interleaving(peers)
    most = 0
    while options := run.options():
        eager = [step for step in options if step.actor != 0] or options
        run.do(min(eager))
        if all(len(folds) for folds in peers.folds):
            most = max(most, max(peer.round for peer in peers.peers.values()) - peers.peers[0].round)
    assert 1 < most <= influence_rounds(list(made.w))
