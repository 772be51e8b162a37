"""Weighted means of values of which some may be unknown."""

from __future__ import annotations

from collections.abc import Sequence


def weighted_mean(values: Sequence[float | None], weights: Sequence[float]) -> float | None:
    """Mean of the known values with these weights; None where none has a weight."""
    known = [(value, weight) for value, weight in zip(values, weights, strict=True) if value is not None and weight]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total else None
