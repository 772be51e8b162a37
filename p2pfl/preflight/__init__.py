"""Preflight: a run's needs, and a trial of its model, before any process starts."""
