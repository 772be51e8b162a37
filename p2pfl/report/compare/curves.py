"""Accuracies by round: points of a run, and curves of an entry over its seeds."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
import numpy.typing as npt

from p2pfl.report.compare.group import Entry
from p2pfl.report.evaluated import curve_set, sets_of
from p2pfl.report.load import RecordedRun, model_record

AXES = ("rounds", "samples", "seconds", "bytes")  # horizontal axes of the plots
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """Accuracies (0..1) after one round, and its position on each of `AXES`."""

    round: int
    position: tuple[float, ...]
    worst: float
    mean: float
    best: float


@dataclass(frozen=True)
class Curve:
    """Accuracies of an entry by round, over the rounds that all its seeds evaluated.

    `low` to `high` is one standard deviation around the mean of several seeds, or worst to best peer for one seed.
    """

    position: dict[str, Array]
    mean: Array
    low: Array
    high: Array


def points(run: RecordedRun) -> list[Point]:
    """Training rounds evaluated by every surviving peer, or by the coordinator.

    Only those on the set of the run's curve.
    """
    found, on = [], curve_set(run)
    for number in run.finished("train"):
        row = [r.test_accuracy for r in run.rounds[number] if r.test_accuracy is not None]
        if len(row) == len(run.rounds[number]) and sets_of(run.rounds[number]) == {on}:
            found.append(Point(number, _position(run, number), min(row), fmean(row), max(row)))
    return found


def final_point(run: RecordedRun) -> Point | None:
    """Final model, after a consensus phase if any; None without a common model."""
    record = model_record(run)
    if record is None or record.test_accuracy is None:
        return None
    accuracy = record.test_accuracy
    return Point(record.round, _position(run, record.round), accuracy, accuracy, accuracy)


def _position(run: RecordedRun, number: int) -> tuple[float, ...]:
    return number, run.samples(number), run.elapsed(number), run.bytes_sent(number)


def curve(entry: Entry) -> Curve:
    """Curve of an entry: mean accuracies and positions of its seeds."""
    measured = [{point.round: point for point in points(run)} for run in entry.runs]
    common = sorted(set.intersection(*(set(own) for own in measured)))
    rows = [[own[number] for own in measured] for number in common]
    positions = np.array([np.mean([p.position for p in row], axis=0) for row in rows]).reshape(len(rows), len(AXES))
    mean = np.array([fmean(p.mean for p in row) for row in rows])
    if len(entry.runs) > 1:
        spread = np.array([stdev(p.mean for p in row) for row in rows])
        low, high = mean - spread, mean + spread
    else:
        low, high = np.array([row[0].worst for row in rows]), np.array([row[0].best for row in rows])
    return Curve({axis: positions[:, column] for column, axis in enumerate(AXES)}, mean, low, high)


def mean_final_point(entry: Entry) -> Point | None:
    """Mean over seeds of the final model's point; None where a run has none."""
    found = [final_point(run) for run in entry.runs]
    known = [point for point in found if point is not None]
    if len(known) < len(found):
        return None
    position = tuple(float(value) for value in np.mean([point.position for point in known], axis=0))
    worst, mean, best = (f(point.mean for point in known) for f in (min, fmean, max))
    return Point(known[0].round, position, worst, mean, best)


def accuracy_at_end(entry: Entry) -> float:
    """Accuracy of the final model, or else the last of the curve; 0 for none."""
    end = mean_final_point(entry)
    if end is not None:
        return end.mean
    mean = curve(entry).mean
    return float(mean[-1]) if mean.size else 0.0
