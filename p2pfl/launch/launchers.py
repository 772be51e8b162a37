"""Choice of the launcher, and what several launches share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from p2pfl import registry
from p2pfl.config import LaunchConfig
from p2pfl.launch.base import LaunchSpec, Outcome
from p2pfl.launch.fork_server import fork_server
from p2pfl.launch.observers import Observer

Launch = Callable[[LaunchSpec, Sequence[Observer]], Outcome]


def launch(spec: LaunchSpec, observers: Sequence[Observer]) -> Outcome:
    """Run a launch to its end, with the launcher of its settings.

    Ctrl-C and SIGTERM end it early. No process outlives it. Raises ConfigError for what the launcher cannot use.
    """
    chosen: Launch = registry.load(registry.LAUNCHERS[spec.config.launch.launcher])
    return chosen(spec, observers)


@contextlib.contextmanager
def session(options: LaunchConfig, processes: int) -> Iterator[None]:
    """Keep the fork server, and the connection to a cluster, for several launches.

    `processes`: those of the largest launch. Raises ConfigError, P2PFLError where there is no cluster.
    """
    registry.check_installed("launcher", options.launcher)
    with fork_server() as server, contextlib.ExitStack() as stack:
        if options.launcher == "ray":
            from p2pfl.launch.ray_cluster import connected

            stack.enter_context(connected(options, processes, server.folder.path))
        yield


def describe_cluster(options: LaunchConfig, processes: int) -> str | None:
    """Size of the cluster, and the places that a run asks for; None without a cluster.

    Raises ConfigError where there is none, or it has no room.
    """
    if options.launcher != "ray":
        return None
    from p2pfl.launch import ray_cluster

    return ray_cluster.describe(options, processes)
