"""Topologies: files, generators, validation, mixing matrices and neighborhoods."""

from p2pfl.topology.convergence import (
    ScheduleConvergence,
    influence_rounds,
    period_matrix,
    push_weight_span,
    schedule_convergence,
)
from p2pfl.topology.files import load_topology, save_topology
from p2pfl.topology.finite_time import MOST_GROWTH, FiniteTime, checked_finite_time, finite_time, finite_time_weights
from p2pfl.topology.fix import FixOptions, fix_file
from p2pfl.topology.formats.writers import FORMATS
from p2pfl.topology.generators import KINDS, make_topology
from p2pfl.topology.graph import MAX_PEERS, Topology, build_schedule, build_topology
from p2pfl.topology.mixing import (
    PUSH_SUM,
    automatic_choice,
    exact_by_weights,
    mean_keeping,
    mixing_matrices,
    mixing_matrix,
    undirected_command,
    weights_text,
)
from p2pfl.topology.public_keys import check_publishable, publish
from p2pfl.topology.push_mixing import check_self_weights
from p2pfl.topology.push_spectrum import UnmixedError, is_push_only, push_rounds, push_weights
from p2pfl.topology.schedule import Neighborhood, NeighborhoodSchedule, neighborhood, without_edges
from p2pfl.topology.schedule_generators import SCHEDULES
from p2pfl.topology.spectrum import (
    consensus_rounds,
    convergence,
    is_reversible,
    is_symmetric,
    lazy,
    mixing_bounds,
    mixing_rounds,
    smallest_eigenvalue,
    spectral_gap,
    stationary,
)
from p2pfl.topology.tree import diameter, spanning_tree

__all__ = [
    "FORMATS",
    "KINDS",
    "MAX_PEERS",
    "MOST_GROWTH",
    "PUSH_SUM",
    "SCHEDULES",
    "FiniteTime",
    "FixOptions",
    "Neighborhood",
    "NeighborhoodSchedule",
    "ScheduleConvergence",
    "Topology",
    "UnmixedError",
    "automatic_choice",
    "build_schedule",
    "build_topology",
    "check_publishable",
    "check_self_weights",
    "checked_finite_time",
    "consensus_rounds",
    "convergence",
    "diameter",
    "exact_by_weights",
    "finite_time",
    "finite_time_weights",
    "fix_file",
    "influence_rounds",
    "is_push_only",
    "is_reversible",
    "is_symmetric",
    "lazy",
    "load_topology",
    "make_topology",
    "mean_keeping",
    "mixing_bounds",
    "mixing_matrices",
    "mixing_matrix",
    "mixing_rounds",
    "neighborhood",
    "period_matrix",
    "publish",
    "push_rounds",
    "push_weight_span",
    "push_weights",
    "save_topology",
    "schedule_convergence",
    "smallest_eigenvalue",
    "spanning_tree",
    "spectral_gap",
    "stationary",
    "undirected_command",
    "weights_text",
    "without_edges",
]
