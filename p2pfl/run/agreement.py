"""What all processes of a run must agree on: settings and topology, as a digest and as short texts."""

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

# These schedules spread the learning rate over all rounds; with any other a run may get more rounds later.
SCHEDULES_OVER_ALL_ROUNDS = frozenset({"onecycle", "cosine"})
# Options of the data set: how it is named, which may differ between machines. Its content counts instead.
_TOLD_BY_CONTENT = frozenset({"dataset"})


def shared_settings(config: RunConfig) -> dict[str, Any]:
    """The options on which all processes of a run must agree, by name; of files the digest of their content.

    Without the data set: its path may differ between machines, and what it holds is known once it is decoded.
    """
    known = {name: value for name, value in settings.options(config).items() if name not in settings.NOT_IN_FINGERPRINT}
    for name in _TOLD_BY_CONTENT:
        known.pop(name, None)
    if config.exchange.faults is not None:
        known["faults"] = _short(load_faults(config.exchange.faults, config.record.seed).text())
    if config.training.init is not None:
        known["init"] = weights_digest(config.training.init)
    return known


def run_fingerprint(roles: Roles, config: RunConfig, content: str = "") -> str:
    """A digest of everything that all processes of a run must agree on, names, edges and weights included.

    `content`: the digest of the data set.
    """
    return _fingerprint(roles, config, shared_settings(config), content)


def lasting_fingerprint(roles: Roles, config: RunConfig) -> str:
    """The same of what must not change while a run is resumed: the rounds may, unless the schedule hangs on them."""
    shared = shared_settings(config)
    if config.training.schedule not in SCHEDULES_OVER_ALL_ROUNDS:
        del shared["rounds"]
    return _fingerprint(roles, config, shared, "")


def _fingerprint(roles: Roles, config: RunConfig, shared: dict[str, Any], content: str) -> str:
    matrix = np.round(roles.matrix, 12).tolist()
    text = json.dumps([config.mode, shared, roles.topology.names, matrix, content], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def shown_settings(config: RunConfig) -> dict[str, str]:
    """The shared options as people write them: option with its dashes → value, or "unset"."""
    known = shared_settings(config)
    return {"--" + name.replace("_", "-"): "unset" if v is None else str(v) for name, v in known.items()}


def shown_topology(roles: Roles) -> dict[str, str]:
    """The topology as short texts: nodes in their order, edges, and the weights of the mixing matrix."""
    names, matrix = roles.topology.names, np.round(roles.matrix, 12)
    edges = [(int(i), int(j)) for i, j in zip(*np.nonzero(matrix - np.diag(np.diag(matrix))), strict=True)]
    return {
        "nodes": f"{len(names)} ({', '.join(names[:6])}{', …' if len(names) > 6 else ''}; {_short(repr(names))})",
        "links": f"{len(edges)} ({_short(repr(edges))})",
        "mixing weights": _short(repr(matrix.tolist())),
    }


def _short(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:10]
