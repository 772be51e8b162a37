"""Sets on which runs were evaluated, and the accuracies that lie on one of them.

A run with a validation set is evaluated on that, and on the test set at its end only: two curves, never one.
"""

from __future__ import annotations

from collections.abc import Iterable

from p2pfl.config import EvaluationSet
from p2pfl.report.load import RecordedRun, latest_accuracy, of_phase
from p2pfl.run.records import RoundRecord


def evaluation_set(record: RoundRecord) -> EvaluationSet | None:
    """Set of a record's accuracies; None where it has none.

    Older records do not name the test set.
    """
    return None if record.test_accuracy is None else record.evaluated_on or "test"


def sets_of(records: Iterable[RoundRecord]) -> frozenset[EvaluationSet]:
    """Sets on which these records were measured."""
    return frozenset(found for record in records if (found := evaluation_set(record)) is not None)


def curve_set(run: RecordedRun) -> EvaluationSet:
    """Set of a run's accuracy over its rounds: the validation set where there is one."""
    recorded = sets_of(record for number in run.finished("train") for record in run.rounds[number])
    return "validation" if "validation" in recorded else "test"


def latest_set(run: RecordedRun) -> EvaluationSet:
    """Set of the latest evaluation before the consensus phase."""
    newest = max(
        (record for own in run.records for record in of_phase(own, "train") if record.test_accuracy is not None),
        key=lambda record: record.round,
        default=None,
    )
    return "test" if newest is None else evaluation_set(newest) or "test"


def latest_accuracies(run: RecordedRun) -> list[float | None]:
    """Latest accuracy of each process before the consensus phase, all on one set.

    None if never measured.
    """
    on = latest_set(run)
    return [latest_accuracy([record for record in own if evaluation_set(record) == on]) for own in run.records]


def accuracy_label(sets: Iterable[EvaluationSet]) -> str:
    """Label of an axis of accuracies on these sets; without any, that of the test set."""
    known = sorted(set(sets)) or ["test"]
    return f"{known[0]} accuracy (%)" if len(known) == 1 else "accuracy (%)"
