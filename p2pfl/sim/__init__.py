"""Simulator: a whole swarm in one process, on virtual time and a virtual network, deterministic."""
