"""p2pfl: one model trained over many machines that exchange weights, not data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from p2pfl.config import RunConfig as RunConfig
    from p2pfl.experiment.run import run_swarm as run_swarm
    from p2pfl.topology import load_topology as load_topology
    from p2pfl.topology import make_topology as make_topology

__all__ = ["RunConfig", "load_topology", "make_topology", "run_swarm"]

_HOMES = {
    "RunConfig": "p2pfl.config",
    "load_topology": "p2pfl.topology",
    "make_topology": "p2pfl.topology",
    "run_swarm": "p2pfl.experiment.run",
}


def __getattr__(name: str) -> Any:
    # Looked up on use: a worker imports this package too and needs none of them.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'p2pfl' has no attribute {name!r}")
