"""Node of a process from an environment variable: labels, indexes and ordinals."""

from __future__ import annotations

import networkx as nx
import pytest

from p2pfl import make_topology
from p2pfl.errors import ConfigError
from p2pfl.topology import Topology, build_topology
from p2pfl.topology.node_choice import node_from

RING = make_topology("ring", 12)


def named(*names: str) -> Topology:
    return build_topology(nx.path_graph(names), name="lab", source="lab.gml")


def chosen(value: str, topology: Topology) -> int:
    return node_from("RANK", {"RANK": value}, topology).index


def refused(value: str, topology: Topology) -> str:
    with pytest.raises(ConfigError) as caught:
        chosen(value, topology)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("value", "index"), [("0", 0), ("11", 11), (" 10\n", 10), ("peer-3", 3), ("swarm-0-007", 7), ("node7", 7)]
)
def test_indexes_and_trailing_ordinals_follow_the_order_of_nodes(value: str, index: int) -> None:
    assert chosen(value, RING) == index


def test_labels_come_first() -> None:
    lab = named("carol", "alice", "bob")
    assert [chosen(name, lab) for name in ("alice", "bob", "carol")] == [0, 1, 2]
    assert [chosen(str(index), lab) for index in range(3)] == [0, 1, 2]
    machines = named("gpu-3", "gpu-17", "gpu-20")
    assert [chosen(name, machines) for name in ("gpu-3", "gpu-17", "gpu-20")] == [0, 1, 2]
    assert [chosen(f"pod-{index}", machines) for index in range(3)] == [0, 1, 2]


def test_a_label_that_is_also_an_index_wins_and_is_said() -> None:
    found = node_from("RANK", {"RANK": "2"}, named("1", "2", "3"))
    assert found.index == 1
    assert found.note == "--node-from RANK: '2' is taken as a label (node 1), not as index 2 (3)"
    assert node_from("RANK", {"RANK": "3"}, named("1", "2", "3")).note is None
    assert node_from("RANK", {"RANK": "3"}, RING).note is None


@pytest.mark.parametrize(
    ("value", "topology"),
    [("0", named("1", "2", "3")), ("pod-1", named("pod-0", "pod-2", "pod-4"))],
)
def test_two_processes_never_become_the_same_node(value: str, topology: Topology) -> None:
    """Another process with the rival label as its value would be that node, too."""
    assert "could mean a node twice, since label" in refused(value, topology)


def test_what_fits_no_node_is_refused_in_one_line() -> None:
    for environment in ({}, {"RANK": ""}, {"RANK": "  "}):
        with pytest.raises(ConfigError, match="--node-from RANK: not set in the environment; start peers by"):
            node_from("RANK", environment, RING)
    assert "'12' is no node of ring-12 (" in refused("12", RING)
    assert "no index from 0 to 11; start 12 peers" in refused("peer-12", RING)
    assert "no index from 0 to 11" in refused("9" * 5000, RING)
    for no_index in ("-1", "0.5", "10.0.0.3", "0-3"):
        assert f"{no_index!r} is no node of ring-12 (" in refused(no_index, RING)
    assert "ends with no number; set it to a label" in refused("dave", named("alice", "bob"))
    assert "ends with no number" in refused("-", named("alice", "bob"))
