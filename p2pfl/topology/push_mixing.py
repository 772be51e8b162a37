"""Mixing matrices of push-sum from the file's weights: the columns add up to 1.

The weight of an edge is the part that its sender gives to its receiver; what remains of 1 is the sender's self-weight.
"""

from __future__ import annotations

import numpy as np

from p2pfl.errors import TopologyError
from p2pfl.topology.graph import Topology
from p2pfl.topology.mixing import SUM_TOLERANCE, automatic_choice, edge_weights, mixing_matrix
from p2pfl.topology.spectrum import Matrix

LEAST_SELF_WEIGHT = 1e-6  # of a peer that pushes sums; rounding errors are below
_REMEDY = "use --mixing column-stochastic"


def file_push_weights(topology: Topology) -> Matrix:
    """The file's edge weights as shares that senders give away; see `mixing_matrix`.

    Raises TopologyError where a peer would give more than it has, or all of it, or nothing on an edge.
    """
    w = edge_weights(topology)
    for sender, receiver, weight in topology.graph.edges(data="weight"):
        if weight == 0:  # the checks of connectivity count it as an edge
            raise TopologyError(
                f"{topology.source}: the edge {topology.names[sender]!r} – {topology.names[receiver]!r} has the weight "
                "0, by which nothing travels; leave it out if all peers can reach each other without it"
            )
    into, outgoing = w.sum(axis=1), w.sum(axis=0)
    j = int(outgoing.argmax())
    if outgoing[j] > 1 + SUM_TOLERANCE:
        by_rows = ""
        if into.max() <= 1 + SUM_TOLERANCE:
            by_rows = (
                " (those into each peer do not exceed 1: these seem to be weights of averages, and not the shares that "
                "a sender gives)"
            )
        raise TopologyError(
            f"{topology.source}: the weights out of {topology.names[j]!r} add up to {outgoing[j]:.6g}, and push-sum "
            f"needs less than 1, the rest being the peer's self-weight{by_rows}; make those out of each peer add up to "
            f"less than 1, or {_REMEDY}"
        )
    np.fill_diagonal(w, np.maximum(0.0, 1.0 - outgoing))
    check_self_weights(topology, w)
    return w


def automatic_push(topology: Topology) -> Matrix:
    """The file's weights where push-sum can use them, else computed ones."""
    return mixing_matrix(topology, automatic_choice(topology, push_sum=True), push_sum=True)


def check_self_weights(topology: Topology, w: Matrix) -> None:
    """Raise TopologyError where a peer would give all that it has to its neighbors."""
    peer = int(w.diagonal().argmin())
    if w[peer, peer] < LEAST_SELF_WEIGHT:
        raise TopologyError(
            f"{topology.source}: peer {topology.names[peer]!r} has no self-weight, and with --algorithm push-sum would "
            "have nothing left when its neighbors are lost; make the weights out of it add up to less than 1, or "
            f"{_REMEDY}"
        )
