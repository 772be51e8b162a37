"""Notes on a schedule of graphs before a run."""

from __future__ import annotations

from p2pfl.config import RunConfig
from p2pfl.modes import mixing_matrices_of, mode_of
from p2pfl.topology import Topology, exact_by_weights, schedule_convergence


def schedule_note(config: RunConfig, topology: Topology) -> str | None:
    """Note on a file's weights that would average exactly, where others are chosen."""
    exact = exact_by_weights(topology) if mode_of(config).mixes else None
    if exact is None or schedule_convergence(mixing_matrices_of(config, topology)).exact is not None:
        return None
    return (
        f"--mixing weights would average exactly in {exact} rounds, by the weights in {topology.source}; --mixing "
        f"{config.gossip.mixing} does not"
    )
