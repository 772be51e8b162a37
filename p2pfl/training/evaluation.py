"""Evaluation of a model: accuracy, loss, and the accuracy of each class."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from p2pfl.config import EvaluationSet
from p2pfl.errors import P2PFLError
from p2pfl.util.means import weighted_mean


class Stopped(P2PFLError):
    """Training was asked to stop before the round was over."""


@dataclass(frozen=True)
class Evaluation:
    """Evaluation that is due: on which set, and on how many samples of it (0: all)."""

    samples: int
    on: EvaluationSet = "test"


@dataclass(frozen=True)
class EvalStats:
    """Accuracy in 0..1 and mean cross-entropy over `samples` samples of the set `on`.

    class_accuracy: of each class, None where no sample has it. own_accuracy: of the peer's own mix of classes; None
    for a process that does not train, or where no sample has one of its classes. is_whole: the samples are all of
    the set.
    """

    accuracy: float
    loss: float
    samples: int
    seconds: float
    class_accuracy: list[float | None] = field(default_factory=list)
    own_accuracy: float | None = None
    is_whole: bool = False
    on: EvaluationSet = "test"


@dataclass(frozen=True)
class Scores:
    """Correct answers and samples of each class, and the sum of their losses."""

    correct: Sequence[int]
    counts: Sequence[int]
    loss: float

    def stats(self, seconds: float, class_counts: Sequence[int], is_whole: bool) -> EvalStats:
        """Statistics; `class_counts`: the shard's samples by class, empty without one."""
        count = sum(self.counts)
        by_class = [right / of if of else None for right, of in zip(self.correct, self.counts, strict=True)]
        own = weighted_mean(by_class, class_counts) if class_counts else None
        return EvalStats(sum(self.correct) / count, self.loss / count, count, seconds, by_class, own, is_whole)


def score(
    batches: Iterable[tuple[Tensor, Tensor]],
    predict: Callable[[Tensor], Tensor],
    classes: int,
    device: torch.device,
    stopped: Callable[[], bool],
) -> Scores:
    """Score batches of images and labels (B,); `predict` gives scores (B, classes).

    Raises Stopped between two batches.
    """
    correct = torch.zeros(classes, dtype=torch.int64, device=device)
    counts = torch.zeros_like(correct)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    for x, y in batches:
        scores = predict(x)
        correct.index_add_(0, y, (scores.argmax(1) == y).long())
        counts.index_add_(0, y, torch.ones_like(y))
        loss += functional.cross_entropy(scores.float(), y, reduction="sum")
        if stopped():
            raise Stopped("stopped during an evaluation")
    return Scores(correct.tolist(), counts.tolist(), float(loss))
