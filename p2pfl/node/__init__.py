"""Drives one peer in a process: its transport, trainer, clock and signals."""
