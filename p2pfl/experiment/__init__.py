"""Runs of every mode, and comparisons of runs."""
