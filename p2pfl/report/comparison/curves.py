"""How accuracy grew in each entry: against rounds, samples, seconds and bytes, over its seeds."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
import numpy.typing as npt

from p2pfl.report.comparison.entries import Entry
from p2pfl.report.run import Run, model_record

AXES = ("rounds", "samples", "seconds", "bytes")  # what an accuracy can be drawn against
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """Test accuracies (0..1) after one round: `place` says how far the run was on each of `AXES`."""

    round: int
    place: tuple[float, ...]
    worst: float
    mean: float
    best: float


@dataclass(frozen=True)
class Curve:
    """An entry's accuracies over the rounds that all its seeds have evaluated; every array has one element a round.

    `low` to `high` is one standard deviation about the mean of several seeds, or for one seed worst to best peer.
    """

    place: dict[str, Array]
    mean: Array
    low: Array
    high: Array


def points(run: Run) -> list[Point]:
    """The training rounds in which all who evaluate did so: every surviving peer, or the coordinator."""
    found = []
    for number in run.finished("train"):
        row = [r.test_accuracy for r in run.rounds[number] if r.test_accuracy is not None]
        if len(row) == len(run.rounds[number]):
            found.append(Point(number, _place(run, number), min(row), fmean(row), max(row)))
    return found


def final_point(run: Run) -> Point | None:
    """The run's final model, after the consensus phase where there is one; None where there is no common model."""
    record = model_record(run)
    if record is None or record.test_accuracy is None:
        return None
    accuracy = record.test_accuracy
    return Point(record.round, _place(run, record.round), accuracy, accuracy, accuracy)


def _place(run: Run, number: int) -> tuple[float, ...]:
    return number, run.samples(number), run.elapsed(number), run.bytes_sent(number)


def curve(entry: Entry) -> Curve:
    """An entry's curve: the mean over its seeds, at the mean of the places where they were."""
    measured = [{point.round: point for point in points(run)} for run in entry.runs]
    common = sorted(set.intersection(*(set(own) for own in measured)))
    rows = [[own[number] for own in measured] for number in common]
    places = np.array([np.mean([p.place for p in row], axis=0) for row in rows]).reshape(len(rows), len(AXES))
    mean = np.array([fmean(p.mean for p in row) for row in rows])
    if len(entry.runs) > 1:
        spread = np.array([stdev(p.mean for p in row) for row in rows])
        low, high = mean - spread, mean + spread
    else:
        low, high = np.array([row[0].worst for row in rows]), np.array([row[0].best for row in rows])
    return Curve({axis: places[:, column] for column, axis in enumerate(AXES)}, mean, low, high)


def final(entry: Entry) -> Point | None:
    """The mean over seeds of the final model's accuracy and places; None where a run has none."""
    found = [final_point(run) for run in entry.runs]
    known = [point for point in found if point is not None]
    if len(known) < len(found):
        return None
    place = tuple(float(value) for value in np.mean([point.place for point in known], axis=0))
    worst, mean, best = (f(point.mean for point in known) for f in (min, fmean, max))
    return Point(known[0].round, place, worst, mean, best)
