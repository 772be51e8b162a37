"""Push-sum on schedules of graphs: exact rounds, update rule, absent edges."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch
from tests.support.helpers import Driven, driven, lossy_exchange, random_vectors
from tests.support.quadratics import SIZE, Quadratics, QuadraticSwarm

from p2pfl.algorithms.push_sum import PushSum
from p2pfl.config import RunConfig
from p2pfl.modes import assign_roles
from p2pfl.topology import Topology, build_schedule, make_topology, mixing_matrices, schedule_convergence

N = 5
RATES = [0.05, 0.05, 0.05, 0.08, 0.02, 0.02, 0.02]
PUSH = {"algorithm": "push-sum", "mixing": "column-stochastic"}


def schedule_of(*rounds: list[tuple[int, int]], n: int = N) -> Topology:
    graphs = [nx.DiGraph(edges) for edges in rounds]
    for graph in graphs:
        graph.add_nodes_from(range(n))
    return build_schedule(graphs, name="uneven", source="uneven")


# Only together strongly connected; a peer's part of the same neighbor is 1/2 in one round and 1/3 in another.
UNEVEN = schedule_of([(0, 1), (1, 2), (3, 4)], [(2, 3), (0, 1), (0, 3)], [(4, 0), (2, 3), (2, 1)], [])
P = np.array(mixing_matrices(UNEVEN, "column-stochastic"))


def matrix(number: int) -> np.ndarray:
    return P[(number - 1) % len(P)]


@pytest.mark.parametrize(
    ("kind", "n", "mixing", "rounds"),
    [
        *(("one-peer-exponential", 2**m, "column-stochastic", m) for m in (1, 2, 3, 4)),
        ("one-peer-exponential", 6, "column-stochastic", None),
        ("base-k", 5, "weights", 5),
        ("base-k", 5, "column-stochastic", None),
        ("base-k", 8, "column-stochastic", 3),
        ("random-matching", 6, "column-stochastic", None),
    ],
)
def test_the_merge_is_exact_where_the_schedule_is(kind: str, n: int, mixing: str, rounds: int | None) -> None:
    config = RunConfig.of(algorithm="push-sum", mixing=mixing, consensus_tolerance=0.01)
    roles = assign_roles(config, make_topology(kind, n))
    assert roles.merge is not None
    assert (roles.merge.rule, roles.merge.is_exact) == (("push-sum", False) if rounds is None else ("exact", True))
    assert rounds in (None, roles.consensus_rounds)
    vectors = random_vectors(n, SIZE)
    mean = torch.stack(vectors).mean(0)
    left = merged(np.array(roles.merge.mixing.matrices), vectors, roles.consensus_rounds) - mean
    limit = 0.01 if rounds is None else 1e-6
    assert left.norm() <= limit * (torch.stack(vectors) - mean).norm()


def merged(matrices: np.ndarray, vectors: list[torch.Tensor], rounds: int) -> torch.Tensor:
    peers = driven(PushSum(peers=len(vectors)).merge(), matrices, [vector.clone() for vector in vectors])
    for number in range(1, rounds + 1):
        sent = [peer.outgoing(number) for peer in peers]
        found = [peer.mix(sent, number) for peer in peers]
    return torch.stack(found)


def test_one_peer_graphs_average_exactly_from_unequal_weights_too() -> None:
    """The product of a period is 11ᵀ/n: x_i = Σ x / n and w_i = Σ w / n."""
    exponential = np.array(mixing_matrices(make_topology("one-peer-exponential", 4), "column-stochastic"))
    unequal = np.eye(4)
    unequal[:, 0] = 0.4, 0.3, 0.2, 0.1
    vectors = [vector.double() for vector in random_vectors(4, SIZE)]
    found = merged(np.concatenate([unequal[None], exponential]), vectors, 3)
    torch.testing.assert_close(found, torch.stack(vectors).mean(0).expand(4, -1), atol=1e-12, rtol=0)


def test_weights_that_differ_do_not_keep_a_schedule_from_being_exact() -> None:
    """A product v 1ᵀ: peers have the parts v_i of Σ x and of Σ w."""
    p = np.array([[0.25, 0.25], [0.75, 0.75]])
    found = schedule_convergence([np.array([[1.0, 0.5], [0.0, 0.5]]), p])
    assert found.exact == found.rounds(0.1) == 2
    assert found.gap == 1.0


def test_the_rounds_to_a_tolerance_are_the_first_that_reach_it() -> None:
    found = schedule_convergence(P)
    product, rounds = np.eye(N), 0
    while np.linalg.norm(product / product.sum(1, keepdims=True) - 1 / N, 2) > 1e-3:
        rounds += 1
        product = matrix(rounds) @ product
        assert found.bound(rounds) == pytest.approx(
            np.linalg.norm(product / product.sum(1, keepdims=True) - 1 / N, 2), abs=1e-12
        )
    assert found.rounds(1e-3) == rounds
    assert 0 < found.gap < 1
    twice = [P[0] @ P[3], P[1], P[2]]  # a round without edges changes nothing
    assert schedule_convergence(twice).contractions == pytest.approx(found.contractions[:3])


@pytest.mark.parametrize("overlapped", [False, True], ids=["atc", "overlapped"])
def test_the_update_rule_by_the_matrix_of_each_round(overlapped: bool) -> None:
    problem = Quadratics.random(N)
    swarm = QuadraticSwarm(PushSum(overlapped, peers=N), P[0], problem)
    peers = driven(PushSum(overlapped, peers=N), P, swarm.x)
    swarm.schedules, swarm.states = [peer.schedule for peer in peers], [peer.state for peer in peers]
    x, w = np.zeros((N, SIZE)), np.ones((N, 1))
    for number, rate in enumerate(RATES, 1):
        step, p = -rate * problem.gradient(x / w), matrix(number)
        x, w = (p @ x + step if overlapped else p @ (x + step)), p @ w
        np.testing.assert_allclose(swarm.round(number, [rate]), x / w, rtol=1e-4, atol=2e-6)


def start() -> list[Driven]:
    return driven(PushSum(peers=N), P, [vector.double() for vector in random_vectors(N, SIZE)])


def total(peers: list[Driven]) -> tuple[np.ndarray, float]:
    """Σ x and Σ w of all peers, with what they owe."""
    x, w = np.zeros(SIZE), 0.0
    for peer in peers:
        saved = peer.algorithm.state_dict(peer.state)
        for neighbor in ("", *range(N)):
            name, weight = (f"owed.{neighbor}", f"owed_weight.{neighbor}") if neighbor != "" else ("x", "weight")
            if name in saved:
                x, w = x + np.asarray(saved[name], np.float64), w + float(saved[weight])
    return x, w


def edge_up(peers: list[Driven], sender: int, receiver: int, served_from: int) -> None:
    received = peers[receiver].algorithm.receipt(peers[receiver].state, sender)
    peers[sender].algorithm.edge_up(peers[sender].state, receiver, received, served_from)


@pytest.mark.parametrize("seed", range(6))
def test_losses_on_edges_that_come_and_go_change_no_mass(seed: int) -> None:
    draw = np.random.default_rng(seed)
    peers = start()
    before = total(peers)
    edges = sorted({(int(j), int(i)) for p in P for i, j in np.argwhere(p > 0) if i != j})
    away: dict[tuple[int, int], int] = {}
    for number in range(1, 81):
        for edge in [edge for edge, until in away.items() if until == number]:
            edge_up(peers, *edge, number)
            del away[edge]
        lost, unsure = set(away), set()
        for sender, receiver in edges if number < 60 else ():
            used = matrix(number)[receiver, sender] > 0
            if used and (sender, receiver) not in away and draw.random() < 0.25:
                (lost if draw.random() < 0.5 else unsure).add((sender, receiver))
                away[sender, receiver] = number + int(draw.integers(1, 10))
        lossy_exchange(peers, number, lost, unsure)
    assert not away
    after = total(peers)
    np.testing.assert_allclose(after[0], before[0], atol=1e-12)
    assert after[1] == pytest.approx(N, abs=1e-12)


def restarted(peers: list[Driven], me: int, saved: dict[str, torch.Tensor | float]) -> None:
    """Peer `me` continues from a saved state."""
    z = torch.as_tensor(saved["x"]) / float(saved["weight"])
    again = driven(peers[me].algorithm, P, [z.clone() for _ in range(N)])[me]
    again.algorithm.load_state_dict(again.state, saved)
    peers[me] = again


def checkpoint_of(peer: Driven) -> dict[str, torch.Tensor | float]:
    saved = peer.algorithm.state_dict(peer.state)
    return {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in saved.items()}


def test_a_share_is_kept_while_its_edge_is_absent_and_its_receiver_is_behind() -> None:
    """Peer 3 dies before it has saved the round of its last edge from peer 0."""
    peers = start()
    others = {(int(j), int(i)) for p in P for i, j in np.argwhere(p > 0) if i != j} - {(0, 3)}
    lossy_exchange(peers, 1, others, set())
    saved, before = checkpoint_of(peers[3]), total(peers)
    for number in range(2, 6):  # they meet in rounds 2 and 6
        lossy_exchange(peers, number, others, set())
    restarted(peers, 3, saved)
    assert total(peers)[1] < N - 0.1
    edge_up(peers, 0, 3, 6)
    for _ in range(2):
        np.testing.assert_allclose(total(peers)[0], before[0], atol=1e-12)
        assert total(peers)[1] == pytest.approx(N, abs=1e-12)
        lossy_exchange(peers, 6, others, set())


def test_a_skipped_round_gives_by_its_own_graph() -> None:
    """Peers 1 and 3 have peer 2's shares of round 3; it is back in round 5."""
    peers = start()
    lossy_exchange(peers, 1, set(), set())
    lossy_exchange(peers, 2, set(), set())
    saved = checkpoint_of(peers[2])
    lossy_exchange(peers, 3, set(), set())
    restarted(peers, 2, saved)
    for neighbor in (1, 3):
        edge_up(peers, 2, neighbor, 5)
    peers[2].outgoing(5)
    peers[2].finish(5)
    assert peers[2].schedule(5).outgoing == {}
    assert total(peers)[1] == pytest.approx(N, abs=1e-12)
