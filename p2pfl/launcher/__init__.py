"""Starts workers, tells them each other's endpoints, watches them, and ends them."""

from p2pfl.launcher.launch import launch
from p2pfl.launcher.observer import Observer
from p2pfl.launcher.server import fork_server
from p2pfl.launcher.started import Launch, Outcome

__all__ = ["Launch", "Observer", "Outcome", "fork_server", "launch"]
