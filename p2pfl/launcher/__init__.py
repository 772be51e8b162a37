"""Starts workers, tells them each other's endpoints, watches them, and ends them."""

from p2pfl.launcher.launch import Launch, Observer, Outcome, launch, prepare_data

__all__ = ["Launch", "Observer", "Outcome", "launch", "prepare_data"]
