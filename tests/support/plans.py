"""Runs of a comparison, as planned without tuning."""

from __future__ import annotations

from p2pfl.config import RunConfig
from p2pfl.experiment.grid import GridPlan
from p2pfl.experiment.plan import CompareOptions, Planned, plan_cells


def plan_runs(base: RunConfig, wanted: CompareOptions) -> list[Planned]:
    """Matched runs in the order of running: cell by cell, seed by seed."""
    return GridPlan(plan_cells(base, wanted), wanted.seeds).finals
