"""Starts workers, tells them each other's endpoints, watches them, and ends them."""

from p2pfl.launcher.launch import Launch, Outcome, launch
from p2pfl.launcher.observer import Observer

__all__ = ["Launch", "Observer", "Outcome", "launch"]
