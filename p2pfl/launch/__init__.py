"""Starts workers, tells them each other's endpoints, watches them, and ends them."""

from p2pfl.launch.local import launch
from p2pfl.launch.observers import Observer
from p2pfl.launch.server import fork_server
from p2pfl.launch.started import Launch, Outcome

__all__ = ["Launch", "Observer", "Outcome", "fork_server", "launch"]
