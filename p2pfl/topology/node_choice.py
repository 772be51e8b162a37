"""Node of a process, from the text by which its scheduler numbers or names it.

Slurm numbers the processes of a job (SLURM_PROCID), Kubernetes ends the names of a StatefulSet's pods with a number
(peer-3), others name machines. Two processes must never become the same node: where a number could mean both a label
and a place in the order of nodes, the label wins, and places are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from p2pfl.errors import ConfigError
from p2pfl.topology.graph import Topology
from p2pfl.topology.naming import few, shorten

_ORDINAL = re.compile(r"(.*?)([0-9]+)", re.DOTALL)
_MOST_DIGITS = 9


@dataclass(frozen=True)
class NodeChoice:
    """Number of the chosen node, and a note on a choice that may surprise."""

    index: int
    note: str | None = None


def node_from(variable: str, environment: Mapping[str, str], topology: Topology) -> NodeChoice:
    """Node that an environment variable names.

    Its value is a label, else an index into the order of nodes from 0, alone or at the end of a name such as peer-3.
    Nodes are in the natural order of their labels, 2 before 10, as `topology show` lists them. Raises ConfigError
    where the variable is not set, or its value fits no node, or not only one.
    """
    value = environment.get(variable, "").strip()
    option = f"--node-from {variable}"
    if not value:
        raise ConfigError(f"{option}: not set in the environment; start peers by a scheduler that sets it, or --node")
    option = f"{option}: {shorten(value)!r}"
    form = _ORDINAL.fullmatch(value)
    if value in topology.names:
        return NodeChoice(topology.names.index(value), _note(option, value, topology))
    if form is None:
        raise ConfigError(
            f"{option} is no node of {topology.source} ({few(topology.names)}), and ends with no number; set it to a "
            "label, or to an index from 0"
        )
    stem, digits = form.groups()
    if stem and not any(map(str.isalpha, stem)):  # such as -1, 0.5 or an IP address, whose end is no index
        raise ConfigError(
            f"{option} is no node of {topology.source} ({few(topology.names)}), and no index from 0, alone or at the "
            f"end of a name; set {variable} to such"
        )
    index = int(digits) if len(digits) <= _MOST_DIGITS else topology.n
    if index >= topology.n:
        raise ConfigError(
            f"{option} is no node of {topology.source} ({few(topology.names)}), and no index from 0 to "
            f"{topology.n - 1}; start {topology.n} peers"
        )
    if rival := _rival(stem, topology):
        raise ConfigError(
            f"{option} is no label, and as an index it could mean a node twice, since label {rival!r} is another "
            f"index; set {variable} to labels, or start each peer with --node LABEL"
        )
    return NodeChoice(index)


def _note(option: str, label: str, topology: Topology) -> str | None:
    """Note on a label that is also the index of another node."""
    place = topology.names.index(label)
    if not label.isascii() or not label.isdecimal() or len(label) > _MOST_DIGITS:
        return None
    if int(label) == place or int(label) >= topology.n:
        return None
    return f"{option} is taken as a label (node {place}), not as index {int(label)} ({topology.names[int(label)]})"


def _rival(stem: str, topology: Topology) -> str | None:
    """Label that has this stem and the index of another node; None if there is none."""
    for place, name in enumerate(topology.names):
        form = _ORDINAL.fullmatch(name)
        if form is None or form[1] != stem or len(form[2]) > _MOST_DIGITS:
            continue
        if int(form[2]) != place and int(form[2]) < topology.n:
            return name
    return None
