"""How far a run is: the peers' reports put together, without any output."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import numpy as np

from p2pfl.model.sketches import Vector, consensus_distance
from p2pfl.run.records import RoundRecord

_OPEN_ROUNDS = 64  # unfinished rounds that are remembered, or one a peer if these are more


@dataclass(frozen=True)
class Plan:
    """What a run is going to do, as far as one needs to know to show how far it is."""

    mode: str
    name: str
    peers: tuple[str, ...]
    rounds: int
    consensus_rounds: int
    run_dir: Path
    batch_size: int
    coordinator: int | None = None  # its rounds are the rows, where there is one
    steps_per_peer: int | None = None  # optimizer steps of one peer in the whole run; None: not known yet


@dataclass(frozen=True)
class Row:
    """A round that all have finished who took part in it."""

    round: int
    phase: str
    loss: float | None
    accuracy: float | None  # mean of the peers; in the consensus phase, of the consensus model
    worst: float | None
    distance: float | None
    samples_per_second: float | None
    bytes_sent: int  # by all peers since this process began to watch


@dataclass
class Rounds:
    """Collects the peers' reports until a round is complete; forgets sketches as soon as it can."""

    plan: Plan
    open: dict[int, dict[int, tuple[RoundRecord, Vector]]] = field(default_factory=dict)
    samples: dict[int, int] = field(default_factory=dict)
    bytes_sent: int = 0
    given_up: int = 0  # rounds up to this one are no longer waited for

    def add(self, peer: int, record: RoundRecord, sketch: Vector) -> list[Row]:
        """The rounds that this report completes."""
        if self.plan.coordinator is not None and peer != self.plan.coordinator:
            return []
        if record.round <= self.given_up:
            self.bytes_sent += record.bytes_sent
            return []
        reports = self.open.setdefault(record.round, {})
        reports[peer] = (record, sketch)
        rows = []
        if self._is_complete(reports):
            self.given_up = record.round
            rows += [self._close(number) for number in sorted(self.open) if number <= record.round]
        while len(self.open) > max(_OPEN_ROUNDS, len(self.plan.peers)):
            self.given_up = min(self.open)  # a peer was lost: show what the others did
            rows.append(self._close(self.given_up))
        return rows

    def _is_complete(self, reports: dict[int, tuple[RoundRecord, Vector]]) -> bool:
        """Whether all have reported, but for those whom several did without: one alone may have lost just its link."""
        if self.plan.coordinator is not None:
            return True
        away = Counter(name for record, _ in reports.values() for name in record.absent or ())
        return all(peer in reports or away[name] > 1 for peer, name in enumerate(self.plan.peers))

    def _close(self, number: int) -> Row:
        reports = self.open.pop(number)
        records = {peer: record for peer, (record, _) in sorted(reports.items())}
        self.bytes_sent += sum(record.bytes_sent for record in records.values())
        if self.plan.coordinator is not None:  # all that its clients send, they send to it
            self.bytes_sent += sum(record.bytes_received for record in records.values())
        distance = math.nan
        sketches = [sketch for _, sketch in reports.values()]
        if len(reports) > 1 and len({sketch.size for sketch in sketches}) == 1:  # a resumed run's file may be cut
            with np.errstate(all="ignore"):  # weights that diverged are for the launcher to complain about
                distance = consensus_distance(sketches)
        losses = [r.train_loss for r in records.values() if r.train_loss is not None]
        accuracies = [r.test_accuracy for r in records.values() if r.test_accuracy is not None]
        phase = next(iter(records.values())).phase
        return Row(
            round=number,
            phase=phase,
            loss=fmean(losses) if losses else None,
            accuracy=fmean(accuracies) if accuracies else None,
            worst=min(accuracies) if len(accuracies) > 1 and phase == "train" else None,
            distance=distance if math.isfinite(distance) else None,
            samples_per_second=self._rate(records) if phase == "train" else None,
            bytes_sent=self.bytes_sent,
        )

    def _rate(self, records: dict[int, RoundRecord]) -> float | None:
        """Samples a second of the swarm; the slowest peer's time counts."""
        seconds = max(record.seconds for record in records.values())
        done = 0.0
        for peer, record in records.items():
            # After a resume the round before is unknown; all rounds of a peer are about as long.
            before = self.samples.get(peer, record.samples * (1 - 1 / record.round))
            done += record.samples - before
            self.samples[peer] = record.samples
        return done / seconds if seconds > 0 else None


@dataclass
class Work:
    """How far all peers are with their optimizer steps, and how long the rest will take."""

    peers: int
    total: int | None  # steps of one peer in the whole run; None: not known yet
    steps: dict[int, int] = field(default_factory=dict)
    first: dict[int, int] = field(default_factory=dict)
    began: float = 0.0

    def report(self, peer: int, steps: int, now: float) -> None:
        """Steps that a peer has done so far; a smaller number than before changes nothing."""
        if not self.first:
            self.began = now
        self.first.setdefault(peer, steps)
        self.steps[peer] = max(steps, self.steps.get(peer, 0))

    def share(self) -> float | None:
        """Done so far, 0..1; None while the total is unknown."""
        return min(sum(self.steps.values()) / (self.total * self.peers), 1.0) if self.total else None

    def seconds_left(self, now: float) -> float | None:
        """At the speed since this process began to watch; None while that is unknown or nothing is left."""
        moved = sum(self.steps.values()) - sum(self.first.values())
        if not self.total or moved <= 0 or now <= self.began:
            return None
        # A peer that has not reported yet is as far as the one that is furthest behind.
        silent = (self.peers - len(self.steps)) * min(self.steps.values())
        rest = self.total * self.peers - sum(self.steps.values()) - silent
        return rest * (now - self.began) / moved if rest > 0 else None
