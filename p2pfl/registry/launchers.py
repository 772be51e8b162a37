"""Registry of launchers."""

from __future__ import annotations

from collections.abc import Mapping

from p2pfl.registry.entry import Entry

LAUNCHERS: Mapping[str, Entry] = {
    "local": Entry("p2pfl.launch.local:launch", "processes of this machine"),
    "ray": Entry(
        "p2pfl.launch.ray:launch",
        "actors on the nodes of a Ray cluster",
        "Moritz et al. 2018, Ray: a distributed framework for emerging AI applications",
        options=("ray_address", "cpus_per_peer", "gpus_per_peer", "placement"),
        spans_machines=True,
        extra="ray",
    ),
}
