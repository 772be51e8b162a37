"""Simulator: a swarm in one process, on virtual time, deterministic."""
