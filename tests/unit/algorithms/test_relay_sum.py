"""RelaySum: each peer's vector counts once, as old as its distance in the tree."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch
from tests.support.helpers import driven, random_vectors
from tests.support.quadratics import SIZE, Quadratics, QuadraticSwarm

from p2pfl.algorithms.relay_sum import RelaySum
from p2pfl.config import RunConfig
from p2pfl.errors import TopologyError
from p2pfl.mixing import mixing_note
from p2pfl.modes import assign_roles
from p2pfl.payload import Payload
from p2pfl.topology import Topology, diameter, make_topology, mixing_matrix, spanning_tree

BETA = 0.9


def tree_of(kind: str, n: int) -> Topology:
    return spanning_tree(make_topology(kind, n))


@pytest.mark.parametrize(("k", "beta"), [(1, 0.0), (4, BETA)])
@pytest.mark.parametrize(("kind", "n"), [("ring", 6), ("star", 5), ("torus", 9)])
def test_the_update_rule(kind: str, n: int, k: int, beta: float) -> None:
    """x_i⁺ = Σ_j h_j / n, with h_j of d(i, j) − 1 rounds ago, else h_i."""
    tree, problem = tree_of(kind, n), Quadratics.random(n)
    distance = dict(nx.all_pairs_shortest_path_length(tree.graph))
    swarm = QuadraticSwarm(RelaySum(n), mixing_matrix(tree), problem, beta)
    x, m, trained = np.zeros((n, SIZE)), np.zeros((n, SIZE)), []
    for number in range(1, 3 * n):
        rates = [0.05 / number] * k
        for rate in rates:
            g = problem.gradient(x)
            m = beta * m + g
            x = x - rate * (g + beta * m if beta else g)
        trained.append(x)
        x = np.stack([sum(known(trained, distance[i][j], i, j) for j in range(n)) / n for i in range(n)])
        np.testing.assert_allclose(swarm.round(number, rates), x, rtol=1e-4, atol=2e-6)


def known(trained: list[np.ndarray], distance: int, i: int, j: int) -> np.ndarray:
    age = max(distance - 1, 0)
    return trained[-1 - age][j] if age < len(trained) else trained[-1][i]


@pytest.mark.parametrize(("kind", "n"), [("ring", 8), ("ring", 7), ("star", 6), ("torus", 16), ("path", 5)])
def test_the_merge_is_exact_after_as_many_rounds_as_the_diameter(kind: str, n: int) -> None:
    tree = tree_of(kind, n)
    vectors = random_vectors(n, SIZE)
    mean = torch.stack(vectors).double().mean(0).numpy()
    merge = RelaySum(n).merge()
    peers = driven(merge, mixing_matrix(tree), [vector.clone() for vector in vectors])
    errors = []
    for number in range(1, diameter(tree) + 1):
        sent = [peer.outgoing(number) for peer in peers]
        errors.append(max(np.abs(peer.mix(sent, number).numpy() - mean).max() for peer in peers))
    assert errors[-1] < 1e-6
    assert all(error > 1e-3 for error in errors[:-1])


def test_without_a_dead_peer_the_merge_is_the_mean_of_those_that_are_connected() -> None:
    n, dead = 6, 4
    tree = tree_of("path", n)
    vectors = random_vectors(n, SIZE)
    peers = driven(RelaySum(n).merge(), mixing_matrix(tree), [vector.clone() for vector in vectors])
    living = range(dead)  # peer 5 is alone
    for number in range(1, n + 2):
        sent = [peer.outgoing(number) for peer in peers]
        for me in living:
            peer = peers[me]
            for sender in peer.schedule(number).incoming:
                if sender == dead:
                    peer.algorithm.missing(peer.state, sender, {})
                else:
                    peer.accumulate(sender, sent[sender][me])
        found = [peers[me].finish(number) for me in living]
    for vector in found:
        torch.testing.assert_close(vector, torch.stack(vectors[:dead]).mean(0))


def test_messages_of_rounds_long_past_are_not_relayed() -> None:
    vectors = random_vectors(3, SIZE)
    peers = driven(RelaySum(3), mixing_matrix(tree_of("path", 3)), vectors)
    sent = [peer.outgoing(1) for peer in peers]
    peers[1].mix(sent, 1)
    saved = peers[1].algorithm.state_dict(peers[1].state)
    resumed = driven(RelaySum(3), mixing_matrix(tree_of("path", 3)), random_vectors(3, SIZE))[1]
    resumed.algorithm.load_state_dict(resumed.state, saved)
    assert resumed.outgoing(2)[0].scalars == {"count": 2.0}
    resumed.algorithm.load_state_dict(resumed.state, saved)
    assert resumed.outgoing(5)[0].scalars == {"count": 1.0}


def test_a_missing_neighbors_side_of_the_tree_is_replaced_by_the_peers_own_vector() -> None:
    vectors = random_vectors(4, SIZE)
    peers = driven(RelaySum(4), mixing_matrix(tree_of("path", 4)), vectors)
    kept = [vector.clone() for vector in vectors]
    sent = [peer.outgoing(1) for peer in peers]
    me = peers[1]
    me.accumulate(0, sent[0][1])
    me.accumulate(2, Payload({"x": (sent[2][1].vectors["x"][0][:5],)}, sent[2][1].scalars))
    me.algorithm.missing(me.state, 2, {"x": 5})
    torch.testing.assert_close(me.finish(1), (kept[0] + 3 * kept[1]) / 4)
    assert me.outgoing(2)[0].scalars == {"count": 1.0}


def test_a_message_of_an_edge_that_goes_down_counts_in_its_round_and_is_not_relayed() -> None:
    """A neighbor that has finished resets the edge, perhaps before this peer mixes."""
    vectors = random_vectors(3, SIZE)
    mean = torch.stack(vectors).mean(0)
    peers = driven(RelaySum(3), mixing_matrix(tree_of("path", 3)), vectors)
    sent = [peer.outgoing(1) for peer in peers]
    middle = peers[1]
    for neighbor in (0, 2):
        middle.accumulate(neighbor, sent[neighbor][1])
    middle.algorithm.edge_reset(middle.state, 2)
    torch.testing.assert_close(middle.finish(1), mean)
    assert "count.2" not in middle.algorithm.state_dict(middle.state)
    following = middle.outgoing(2)
    assert [following[neighbor].scalars for neighbor in (0, 2)] == [{"count": 1.0}, {"count": 2.0}]


@pytest.mark.parametrize("count", [-3.0, 1e300, 0.5])
def test_a_count_that_no_peer_can_have_does_no_harm_beyond_its_vector(count: float) -> None:
    vectors = random_vectors(3, SIZE)
    peers = driven(RelaySum(3), mixing_matrix(tree_of("path", 3)), vectors)
    peers[0].outgoing(1)
    peers[0].accumulate(1, Payload({"x": (vectors[1],)}, {"count": count}))
    assert bool(torch.isfinite(peers[0].finish(1)).all())


@pytest.mark.parametrize(("kind", "n"), [("ring", 8), ("torus", 16), ("complete", 6), ("random-regular", 20)])
def test_a_spanning_tree_reaches_all_with_edges_of_the_topology(kind: str, n: int) -> None:
    topology = make_topology(kind, n)
    tree = spanning_tree(topology)
    assert nx.is_tree(tree.graph)
    assert sorted(tree.graph.nodes) == list(range(n))
    assert all(topology.graph.has_edge(*edge) for edge in tree.graph.edges)
    assert diameter(tree) == nx.diameter(tree.graph) <= 2 * nx.diameter(topology.graph)
    assert nx.utils.graphs_equal(spanning_tree(topology).graph, tree.graph)


def test_a_run_uses_the_tree_alone_and_says_so() -> None:
    config, ring = RunConfig.of(algorithm="relay-sum"), make_topology("ring", 8)
    roles = assign_roles(config, ring)
    assert sum(len(links) for links in roles.links) == 2 * 7
    assert roles.consensus_rounds == 7
    assert mixing_note(config, ring) == "weights travel along a spanning tree of 7 of 8 edges and diameter 7"


def test_a_directed_topology_is_refused() -> None:
    with pytest.raises(TopologyError, match="relayed in both directions; make the graph undirected"):
        assign_roles(RunConfig.of(algorithm="relay-sum"), make_topology("exponential", 6))
