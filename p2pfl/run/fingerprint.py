"""Fingerprint of a run: the settings and topology on which all processes agree."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

from p2pfl import config as settings
from p2pfl.config import RunConfig
from p2pfl.faults import load_faults
from p2pfl.model.weights_file import weights_digest
from p2pfl.modes import Roles
from p2pfl.run.partition_file import partition_digest
from p2pfl.topology.spectrum import Matrix

# Schedules of the learning rate over all rounds; with any other a run may get more rounds later.
SCHEDULES_OVER_ALL_ROUNDS = frozenset({"onecycle", "cosine"})
# Name of the data set, which may differ between machines; its content counts instead.
_COVERED_BY_CONTENT = frozenset({"dataset"})


def shared_settings(config: RunConfig) -> dict[str, Any]:
    """Options on which all processes of a run must agree, by name.

    A file stands here by the digest of its content. The data set does not: its path may differ between machines, and
    its content is known only once it is decoded.
    """
    known = {name: value for name, value in settings.options(config).items() if name not in settings.NOT_IN_FINGERPRINT}
    for name in _COVERED_BY_CONTENT:
        known.pop(name, None)
    if config.exchange.faults is not None:
        known["faults"] = _short(load_faults(config.exchange.faults, config.record.seed).text())
    if config.data.partition_file is not None:
        known["partition"] = f"file:{partition_digest(config.data.partition_file)}"
    if config.training.init is not None:
        known["init"] = weights_digest(config.training.init)
    return known


def run_fingerprint(roles: Roles, config: RunConfig, content: str = "") -> str:
    """Digest of everything on which all processes of a run must agree.

    It includes the topology's names, edges and weights. `content`: the digest of the data set.
    """
    return _fingerprint(roles, config, shared_settings(config), content)


def resume_fingerprint(roles: Roles, config: RunConfig) -> str:
    """Digest of the settings that must not change when a run is resumed.

    The number of rounds may change, unless the schedule depends on it.
    """
    shared = shared_settings(config)
    if config.training.schedule not in SCHEDULES_OVER_ALL_ROUNDS:
        del shared["rounds"]
    return _fingerprint(roles, config, shared, "")


def _fingerprint(roles: Roles, config: RunConfig, shared: dict[str, Any], content: str) -> str:
    matrix = _rounded(roles)
    text = json.dumps([config.mode, shared, roles.topology.names, matrix, content], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def describe_settings(config: RunConfig) -> dict[str, str]:
    """Shared options as users write them: option with its dashes → value, or "unset"."""
    known = shared_settings(config)
    return {"--" + name.replace("_", "-"): "unset" if v is None else str(v) for name, v in known.items()}


def describe_topology(roles: Roles) -> dict[str, str]:
    """Topology as short texts: ordered nodes, edges, weights of the mixing matrix."""
    names = roles.topology.names
    pairs = (zip(*np.nonzero(np.round(w - np.diag(np.diag(w)), 12)), strict=True) for w in _matrices(roles))
    by_round = [[(int(i), int(j)) for i, j in found] for found in pairs]
    edges: list[Any] = by_round if roles.on_schedule else by_round[0]
    count = sum(map(len, by_round))
    return {
        "nodes": f"{len(names)} ({', '.join(names[:6])}{', …' if len(names) > 6 else ''}; {_short(repr(names))})",
        "links": f"{count} ({_short(repr(edges))})",
        "mixing weights": _short(repr(_rounded(roles))),
    }


def _rounded(roles: Roles) -> list[Any]:
    """Mixing matrix, or those of a schedule by round, rounded to 12 digits."""
    matrices = _matrices(roles)
    found: list[Any] = np.round(matrices if roles.on_schedule else matrices[0], 12).tolist()
    return found


def _matrices(roles: Roles) -> tuple[Matrix, ...]:
    """Mixing matrices of a schedule, or the one W of a graph.

    On one graph eigenvalues may follow from W, whose last digits differ between machines; W itself says all.
    """
    return roles.matrices if roles.on_schedule else (roles.matrix,)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:10]
