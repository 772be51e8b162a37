"""Push-sum: the update rule of the paper, and mass that no lost message changes."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch
from tests.support.helpers import Driven, disagreement, driven, lossy_exchange, random_vectors, ring_with_chord
from tests.support.quadratics import SIZE, Quadratics, QuadraticSwarm

from p2pfl.algorithms.base import Saved
from p2pfl.algorithms.push_sum import PushSum
from p2pfl.algorithms.share_ledger import Share, ShareLedger
from p2pfl.config import RunConfig, check_together
from p2pfl.errors import ConfigError, TopologyError
from p2pfl.mixing import mixing_note
from p2pfl.modes import assign_roles
from p2pfl.payload import Payload, Receipt
from p2pfl.topology import build_topology, make_topology, mixing_matrix, push_rounds, push_weights
from p2pfl.topology.push_spectrum import push_bounds

N, BETA = 6, 0.9
RATES = [0.05, 0.05, 0.05, 0.08, 0.02, 0.02]  # of six rounds


P = mixing_matrix(ring_with_chord(N), "column-stochastic")


def sgp(problem: Quadratics, rates: list[list[float]], beta: float, overlapped: bool) -> list[np.ndarray]:
    """Assran et al. 2019, algorithm 1, with the way of K local steps as one step."""
    found, x, w, m = [], np.zeros((N, SIZE)), np.ones((N, 1)), np.zeros((N, SIZE))
    for steps in rates:
        z = start = x / w
        for rate in steps:
            g = problem.gradient(z)
            m = beta * m + g
            z = z - rate * (g + beta * m if beta else g)
        step = z - start
        x, w = (P @ x + step if overlapped else P @ (x + step)), P @ w
        found.append(x / w)
    return found


@pytest.mark.parametrize("overlapped", [False, True], ids=["atc", "overlapped"])
@pytest.mark.parametrize(("k", "beta"), [(1, 0.0), (1, BETA), (4, BETA)])
def test_the_update_rule(k: int, beta: float, overlapped: bool) -> None:
    problem = Quadratics.random(N)
    swarm = QuadraticSwarm(PushSum(overlapped, peers=N), P, problem, beta)
    rates = [[rate * (1 - 0.1 * step) for step in range(k)] for rate in RATES]
    for number, expected in enumerate(sgp(problem, rates, beta, overlapped), 1):
        np.testing.assert_allclose(swarm.round(number, rates[number - 1]), expected, rtol=1e-4, atol=2e-6)


def test_it_approaches_the_solution_on_a_graph_whose_degrees_differ() -> None:
    """A mean by P's stationary weights would be another one."""
    problem = Quadratics.random(N)
    swarm = QuadraticSwarm(PushSum(peers=N), P, problem)
    for number in range(1, 601):
        x = swarm.round(number, [1.0 / (10 + number)])
    weights = push_weights(P)[:, None] * problem.curvature
    biased = (weights * problem.minima).sum(0) / weights.sum(0)
    error = np.abs(x.mean(0) - problem.solution).max()
    assert error < 0.02
    assert np.abs(biased - problem.solution).max() > 5 * error


def total(peers: list[Driven]) -> tuple[np.ndarray, float]:
    """Σ x and Σ w of some peers, with what they owe."""
    x, w = np.zeros(SIZE), 0.0
    for peer in peers:
        saved, outgoing = peer.algorithm.state_dict(peer.state), peer.schedule(1).outgoing
        x, w = x + np.asarray(saved["x"], np.float64), w + float(saved["weight"])
        for neighbor in outgoing:
            if f"owed.{neighbor}" in saved:
                x = x + np.asarray(saved[f"owed.{neighbor}"], np.float64)
                w += float(saved[f"owed_weight.{neighbor}"])
    return x, w


def start(algorithm: PushSum, dtype: torch.dtype = torch.float64) -> list[Driven]:
    return driven(algorithm, P, [vector.to(dtype) for vector in random_vectors(N, SIZE)])


def test_mass_is_kept_in_float64() -> None:
    peers = start(PushSum(peers=N))
    before = total(peers)
    for number in range(1, 101):
        sent = [peer.outgoing(number) for peer in peers]
        found = [peer.mix(sent, number) for peer in peers]
        after = total(peers)
        np.testing.assert_allclose(after[0], before[0], atol=1e-12)
        assert after[1] == pytest.approx(N, abs=1e-12)
    for z in found:
        np.testing.assert_allclose(z, before[0] / N, atol=1e-10)


def test_mass_is_kept_on_a_rounded_wire() -> None:
    peers = start(PushSum(wire_dtype="bf16", peers=N), torch.float32)
    before = total(peers)
    for number in range(1, 51):
        sent = [peer.outgoing(number) for peer in peers]
        for peer in peers:
            peer.mix(sent, number)
    np.testing.assert_allclose(total(peers)[0], before[0], atol=2e-5)


def checkpoint_of(peer: Driven) -> Saved:
    saved = peer.algorithm.state_dict(peer.state)
    return {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in saved.items()}


def edge_up(peers: list[Driven], sender: int, receiver: int, served_from: int) -> None:
    received = peers[receiver].algorithm.receipt(peers[receiver].state, sender)
    peers[sender].algorithm.edge_up(peers[sender].state, receiver, received, served_from)


@pytest.mark.parametrize("wire", ["fp32", "bf16"])
@pytest.mark.parametrize("seed", range(5))
def test_lost_payloads_and_acknowledgments_change_no_mass(seed: int, wire: str) -> None:
    """Each edge that lost something is away for some rounds, and comes up again."""
    draw = np.random.default_rng(seed)
    peers = start(PushSum(wire_dtype=wire, peers=N))
    before = total(peers)
    edges = [(sender, receiver) for sender in range(N) for receiver in peers[sender].schedule(1).outgoing]
    away: dict[tuple[int, int], int] = {}
    for number in range(1, 61):
        for edge in [edge for edge, until in away.items() if until == number]:
            edge_up(peers, *edge, number)
            del away[edge]
        lost, unsure = set(away), set()
        for edge in edges if number < 50 else ():
            if edge not in away and draw.random() < 0.15:
                (lost if draw.random() < 0.5 else unsure).add(edge)
                away[edge] = number + int(draw.integers(1, 6))
        lossy_exchange(peers, number, lost, unsure)
    assert not away
    after = total(peers)
    np.testing.assert_allclose(after[0], before[0], atol=1e-12)
    assert after[1] == pytest.approx(N, abs=1e-12)
    assert all(float(peer.algorithm.state_dict(peer.state)["weight"]) > 0 for peer in peers)


def test_a_share_that_was_taken_back_and_had_arrived_is_paid_back() -> None:
    peers = start(PushSum(peers=N))
    before = total(peers)
    lossy_exchange(peers, 1, set(), {(1, 2)})
    assert total(peers)[1] > N + 0.1  # peer 1 has taken back what peer 2 has
    edge_up(peers, 1, 2, 2)
    np.testing.assert_allclose(total(peers)[0], before[0], atol=1e-12)
    lossy_exchange(peers, 2, set(), set())
    assert not any(name.startswith("owed") for name in peers[1].algorithm.state_dict(peers[1].state))
    np.testing.assert_allclose(total(peers)[0], before[0], atol=1e-12)


def test_a_share_that_was_taken_back_and_is_sent_once_more_is_paid_back() -> None:
    """As after a restart, where the neighbor has gone back to an earlier round."""
    ledger, share = ShareLedger(), Share(3, torch.ones(4), 1.0, 0.5)
    ledger.give(1, share)
    assert ledger.undelivered(1, 3) is share
    ledger.edge_up(1, received=2, served_from=3)
    account = ledger.account(1)
    assert (account.owed_weight, share.is_back) == (-0.5, False)
    ledger.edge_up(1, received=2, served_from=4)  # it was not sent after all
    assert account.owed_weight == 0.0
    assert account.owed is not None
    assert not account.owed.any()


@pytest.mark.parametrize("rounds_lost", [1, 2])
def test_acknowledged_shares_that_died_with_their_receiver_are_given_again(rounds_lost: int) -> None:
    """The receiver repeats its last rounds from a checkpoint, without them."""
    peers = start(PushSum(peers=N))
    for number in range(1, 4):
        lossy_exchange(peers, number, set(), set())
    keeper = peers[2]
    saved = checkpoint_of(keeper)
    z = torch.as_tensor(saved["x"]) / float(saved["weight"])
    before = total(peers)
    # Only the edge from 1 to 2 is at work.
    others = {(a, b) for a in range(N) for b in peers[a].schedule(1).outgoing} - {(1, 2)}
    for number in range(4, 4 + rounds_lost):
        lossy_exchange(peers, number, others, set())
    restarted = driven(keeper.algorithm, P, [z.clone() for _ in range(N)])[2]
    restarted.algorithm.load_state_dict(restarted.state, saved)
    peers[2] = restarted
    assert total(peers)[1] < N - 0.1
    edge_up(peers, 1, 2, 4 + rounds_lost)
    np.testing.assert_allclose(total(peers)[0], before[0], atol=1e-12)
    assert total(peers)[1] == pytest.approx(N, abs=1e-12)


def test_a_restarted_sender_gives_a_share_once_that_its_earlier_incarnation_delivered() -> None:
    peers = start(PushSum(peers=N))
    lossy_exchange(peers, 1, set(), set())
    sender = peers[1]
    saved = checkpoint_of(sender)
    lossy_exchange(peers, 2, set(), set())
    z = torch.as_tensor(saved["x"]) / float(saved["weight"])
    again = driven(sender.algorithm, P, [z.clone() for _ in range(N)])[1]
    again.algorithm.load_state_dict(again.state, saved)
    peers[1] = again
    edge_up(peers, 1, 2, 3)  # peer 2 has the share of round 2
    sent = again.outgoing(2)
    again.algorithm.missing(again.state, 0, {})
    again.algorithm.undelivered(again.state, 2, sent[2])
    again.finish(2)
    # Peer 0's share of round 2 died with it, which peer 0 hears when the edge is up.
    edge_up(peers, 0, 1, 3)
    assert total(peers)[1] == pytest.approx(N, abs=1e-12)


def test_no_payload_has_a_weight_below_0_however_much_the_neighbor_owes() -> None:
    peers = start(PushSum(peers=N))
    lossy_exchange(peers, 1, set(), {(1, 2)})
    for number in range(2, 8):  # peer 1 gives its mass away, and gets nothing
        lossy_exchange(peers, number, {(0, 1), (1, 2)}, set())
    before = total(peers)
    edge_up(peers, 1, 2, 8)
    for number in range(8, 30):
        weight = peers[1].outgoing(number)[2].scalars["weight"]
        assert weight >= 0.0
        peers[1].finish(number)
    assert before[1] > N


def test_buffers_stay_within_the_range_of_the_peers_own() -> None:
    place = slice(4, 8)
    problem = Quadratics.random(N)
    problem.curvature[:, place] = 0.0
    swarm = QuadraticSwarm(PushSum(buffers=(place,), peers=N), P, problem, BETA)
    draw = np.random.default_rng(2)
    for number in range(1, 20):
        values = draw.uniform(0.0, 1.0, (N, 4))  # a statistic that training sets
        for x, row in zip(swarm.x, values, strict=True):
            x[place] = torch.from_numpy(row)
        found = swarm.round(number, [0.1])[:, place]
        assert found.min() > 0.0
        assert (found <= values.max(0) + 1e-6).all()


def test_a_peer_that_gets_nothing_keeps_a_finite_model() -> None:
    """Its weight halves until it gives nothing more away; its steps do not grow."""
    peers = start(PushSum(peers=N), torch.float32)
    lonely = peers[1]
    z = torch.zeros(SIZE)
    for number in range(1, 200):
        lonely.outgoing(number)
        z = lonely.finish(number).add_(0.1)
    assert float(lonely.algorithm.state_dict(lonely.state)["weight"]) > 0.0
    assert z.abs().max() < 200


@pytest.mark.parametrize("weight", [-3.0, 1e300, 0.0])
def test_a_weight_that_no_peer_can_have_does_no_harm_beyond_its_vector(weight: float) -> None:
    peers = start(PushSum(peers=N), torch.float32)
    peers[1].outgoing(1)
    peers[1].accumulate(0, Payload({"x": (torch.ones(SIZE),)}, {"weight": weight}))
    assert bool(torch.isfinite(peers[1].finish(1)).all())


def test_what_is_owed_of_several_rounds_may_weigh_more_than_all_peers() -> None:
    """A star's hub has over a third of all weight, and may owe two shares more."""
    peers = start(PushSum(peers=N))
    peers[1].outgoing(1)
    before = float(peers[1].algorithm.state_dict(peers[1].state)["weight"])
    peers[1].accumulate(0, Payload({"x": (torch.ones(SIZE, dtype=torch.float64),)}, {"weight": 1.5 * N}))
    after = float(peers[1].algorithm.state_dict(peers[1].state)["weight"])
    assert after - before == pytest.approx(P[1, 0] * 1.5 * N)


def test_the_merge_begins_with_all_of_its_weight_after_a_single_round_of_training() -> None:
    """A neighbor's receipt of that round is no share of the merge."""
    peers = driven(PushSum(peers=N).merge(), P, random_vectors(N, SIZE))
    peers[1].algorithm.edge_up(peers[1].state, 2, Receipt(1), 2)
    assert peers[1].outgoing(2)[2].scalars["weight"] == 1.0


def test_weights_by_which_a_peer_gives_all_away_are_refused() -> None:
    graph = nx.cycle_graph(5)
    nx.set_edge_attributes(graph, 0.5, "weight")
    topology = build_topology(graph, name="ring", source="ring.json")
    with pytest.raises(TopologyError, match=r"^ring.json: peer '0' has no self-weight, and with --algorithm push-sum"):
        assign_roles(RunConfig.of(algorithm="push-sum", mixing="weights"), topology)
    assert assign_roles(RunConfig.of(mixing="weights"), topology).consensus_rounds > 0


@pytest.mark.parametrize("tolerance", [0.5, 1e-3, 1e-7])
def test_the_rounds_to_a_tolerance_are_the_first_that_reach_it(tolerance: float) -> None:
    """A search by powers, and round by round."""
    p = mixing_matrix(ring_with_chord(7), "column-stochastic")
    within = (number for number, bound in enumerate(push_bounds(p), start=1) if bound <= tolerance)
    assert push_rounds(p, tolerance) == next(within)


@pytest.mark.parametrize("n", [4, 6, 9])
def test_the_merge_shrinks_disagreement_to_the_tolerance_in_the_rounds_decided_in_advance(n: int) -> None:
    topology = ring_with_chord(n)
    config = RunConfig.of(algorithm="push-sum", mixing="column-stochastic", consensus_tolerance=1e-3)
    roles = assign_roles(config, topology)
    assert roles.consensus_rounds == push_rounds(roles.matrix, 1e-3)
    vectors = random_vectors(n, SIZE)
    before = disagreement(torch.stack(vectors).numpy())
    mean = torch.stack(vectors).mean(0)
    peers = driven(PushSum(peers=n).merge(), roles.matrix, vectors)
    left = []
    for number in range(1, roles.consensus_rounds + 1):
        sent = [peer.outgoing(number) for peer in peers]
        found = torch.stack([peer.mix(sent, number) for peer in peers])
        left.append(float((found - mean).norm(dim=1).square().mean().sqrt()))
    assert left[-1] <= 1e-3 * before
    assert left[len(left) // 2] > 1e-3 * before  # and not in half of them


def test_a_directed_graph_whose_degrees_differ_needs_push_sum() -> None:
    topology = ring_with_chord(N)
    for mixing in ("metropolis-hastings", "uniform"):
        with pytest.raises(TopologyError, match="or use --algorithm push-sum --mixing column-stochastic"):
            assign_roles(RunConfig.of(mixing=mixing), topology)
    with pytest.raises(ConfigError, match="--mixing column-stochastic: with dpsgd the mean of the peers would drift"):
        check_together(RunConfig.of(mixing="column-stochastic"))
    with pytest.raises(ConfigError, match="--mixing samples: push-sum counts all peers alike"):
        check_together(RunConfig.of(algorithm="push-sum", mixing="samples"))
    config = RunConfig.of(algorithm="push-sum", mixing="column-stochastic")
    check_together(config)
    assert assign_roles(config, topology).matrix.sum(0) == pytest.approx(np.ones(N))
    note = mixing_note(config, topology)
    assert note is not None
    assert note.startswith("the peers' weights of push-sum approach 0.6")
    assert mixing_note(config, make_topology("ring", 8)) is None


def test_a_directed_graph_must_be_strongly_connected() -> None:
    with pytest.raises(TopologyError, match="not strongly connected"):
        build_topology(nx.DiGraph([(0, 1), (1, 2), (0, 2)]), name="dag", source="dag")
