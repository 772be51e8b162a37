"""Settings of the launcher: where the processes of a run are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from p2pfl import registry
from p2pfl.config.fields import check, is_count, not_negative, one_of, positive, unset
from p2pfl.config.sections import MOST_PROCESSES


@dataclass(frozen=True)
class LaunchConfig:
    """Launcher of the processes, and their places on a cluster."""

    launcher: Annotated[str, one_of("launcher")] = "local"
    """Where the processes run."""
    ray_address: Annotated[str | None, unset("auto|HOST:PORT", "a cluster of this machine, for this run")] = None
    """Ray cluster that the processes run on: auto finds one that runs on this machine, or is named in RAY_ADDRESS."""
    cpus_per_peer: float = 1.0
    """CPUs of a node that each process takes up; also its threads, unless --threads gives another number."""
    gpus_per_peer: float = 0.0
    """GPUs of a node that each process takes up, such as 0.25; 0: it runs on CPUs."""
    placement: Literal["spread", "pack"] = "spread"
    """Places of the processes: spread over the nodes of a cluster, or packed on as few as have room."""

    def __post_init__(self) -> None:
        registry.check("launcher", self.launcher)
        positive(self, MOST_PROCESSES, "cpus_per_peer")
        not_negative(self, MOST_PROCESSES, "gpus_per_peer")
        for name in ("cpus_per_peer", "gpus_per_peer"):
            share = getattr(self, name)
            check(share <= 1 or share == int(share), name, share, "must be at most 1, or a whole number")
        address = "auto" if self.ray_address is None else self.ray_address
        host, _, port = address.rpartition(":")
        known = address == "auto" or (bool(host) and "/" not in host and is_count(port) and 0 < int(port) < 65536)
        check(known, "ray_address", address, "must be auto, or HOST:PORT of the cluster's head")
