"""Topologies: files, generators, validation, mixing matrices, spectral gap, and each peer's neighborhood."""

from p2pfl.topology.files import FORMATS, load_topology, save_topology
from p2pfl.topology.generators import KINDS, make_topology
from p2pfl.topology.graph import MAX_PEERS, Topology, build_topology
from p2pfl.topology.mend import Mending, fix_file
from p2pfl.topology.mixing import (
    Neighborhood,
    consensus_rounds,
    convergence,
    mean_keeping,
    mixing_bounds,
    mixing_matrix,
    mixing_rounds,
    neighborhood,
    spectral_gap,
    undirected_command,
    without_edges,
)
from p2pfl.topology.publish import check_publishable, publish
from p2pfl.topology.spectrum import is_symmetric

__all__ = [
    "FORMATS",
    "KINDS",
    "MAX_PEERS",
    "Mending",
    "Neighborhood",
    "Topology",
    "build_topology",
    "check_publishable",
    "consensus_rounds",
    "convergence",
    "fix_file",
    "is_symmetric",
    "load_topology",
    "make_topology",
    "mean_keeping",
    "mixing_bounds",
    "mixing_matrix",
    "mixing_rounds",
    "neighborhood",
    "publish",
    "save_topology",
    "spectral_gap",
    "undirected_command",
    "without_edges",
]
