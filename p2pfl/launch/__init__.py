"""Launchers: start workers, introduce neighbors, watch, restart and stop them."""

from p2pfl.launch.base import LaunchSpec, Outcome
from p2pfl.launch.fork_server import fork_server
from p2pfl.launch.launchers import describe_cluster, launch, session
from p2pfl.launch.observers import Observer

__all__ = ["LaunchSpec", "Observer", "Outcome", "describe_cluster", "fork_server", "launch", "session"]
