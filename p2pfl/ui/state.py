"""Progress of a run from its peers' reports, as rows and texts; no output."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import numpy as np

from p2pfl.config import EvaluationSet
from p2pfl.model.sketches import Vector, consensus_distance
from p2pfl.run.records import RoundRecord
from p2pfl.util.units import bytes_text, clock_text

_OPEN_ROUNDS = 64  # unfinished rounds that are kept, or as many as there are peers


@dataclass(frozen=True)
class RunInfo:
    """Facts about a run that its display needs."""

    mode: str
    name: str
    peers: tuple[str, ...]
    rounds: int
    consensus_rounds: int  # 0: none, or not known yet
    run_dir: Path
    batch_size: int
    coordinator: int | None = None  # its rounds are the rows, if there is one
    steps_per_peer: int | None = None  # optimizer steps of one peer in the whole run; None: not known yet


@dataclass(frozen=True)
class RoundRow:
    """A round that all its participants have finished."""

    round: int
    phase: str
    loss: float | None
    accuracy: float | None  # mean of the peers; in the consensus phase, of the consensus model
    worst: float | None
    distance: float | None
    samples_per_second: float | None
    bytes_sent: int  # by all peers since this process started
    evaluated_on: EvaluationSet | None = None  # set of the accuracies


@dataclass
class RoundCollector:
    """Peers' reports, collected until a round is complete."""

    info: RunInfo
    open: dict[int, dict[int, tuple[RoundRecord, Vector]]] = field(default_factory=dict)
    samples: dict[int, int] = field(default_factory=dict)
    bytes_sent: int = 0
    given_up: int = 0  # last round whose reports are no longer awaited

    def add(self, peer: int, record: RoundRecord, sketch: Vector) -> list[RoundRow]:
        """Add a report; returns the rounds that it completes."""
        if self.info.coordinator is not None and peer != self.info.coordinator:
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
        while len(self.open) > max(_OPEN_ROUNDS, len(self.info.peers)):
            self.given_up = min(self.open)  # a peer was lost: show the round of the others
            rows.append(self._close(self.given_up))
        return rows

    def _is_complete(self, reports: dict[int, tuple[RoundRecord, Vector]]) -> bool:
        """Whether all have reported, except peers that several others report missing.

        A single such report may be due to a broken link only.
        """
        if self.info.coordinator is not None:
            return True
        missing = Counter(name for record, _ in reports.values() for name in record.absent or ())
        return all(peer in reports or missing[name] > 1 for peer, name in enumerate(self.info.peers))

    def _close(self, number: int) -> RoundRow:
        reports = self.open.pop(number)
        records = {peer: record for peer, (record, _) in sorted(reports.items())}
        self.bytes_sent += sum(record.bytes_sent for record in records.values())
        if self.info.coordinator is not None:  # clients send only to the coordinator
            self.bytes_sent += sum(record.bytes_received for record in records.values())
        distance = math.nan
        sketches = [sketch for _, sketch in reports.values()]
        if (
            len(reports) > 1 and len({sketch.size for sketch in sketches}) == 1
        ):  # the file of a resumed run may be truncated
            with np.errstate(all="ignore"):  # the launcher reports diverged weights
                distance = consensus_distance(sketches)
        losses = [r.train_loss for r in records.values() if r.train_loss is not None]
        accuracies = [r.test_accuracy for r in records.values() if r.test_accuracy is not None]
        sets = {r.evaluated_on for r in records.values() if r.evaluated_on is not None}
        phase = next(iter(records.values())).phase
        return RoundRow(
            round=number,
            phase=phase,
            loss=fmean(losses) if losses else None,
            accuracy=fmean(accuracies) if accuracies else None,
            worst=min(accuracies) if len(accuracies) > 1 and phase == "train" else None,
            distance=distance if math.isfinite(distance) else None,
            samples_per_second=self._rate(records) if phase == "train" else None,
            bytes_sent=self.bytes_sent,
            evaluated_on=min(sets, default=None),
        )

    def _rate(self, records: dict[int, RoundRecord]) -> float | None:
        """Samples per second of the swarm, by the time of the slowest peer."""
        seconds = max(record.seconds for record in records.values())
        done = 0.0
        for peer, record in records.items():
            # After a resume the previous round is unknown; rounds of a peer have about the same length.
            before = self.samples.get(peer, record.samples * (1 - 1 / record.round))
            done += record.samples - before
            self.samples[peer] = record.samples
        return done / seconds if seconds > 0 else None


@dataclass
class StepProgress:
    """Progress of all peers in optimizer steps, and the remaining time."""

    peers: int
    total: int | None  # steps of one peer in the whole run; None: not known yet
    steps: dict[int, int] = field(default_factory=dict)
    first: dict[int, int] = field(default_factory=dict)
    began: float = 0.0

    def report(self, peer: int, steps: int, now: float) -> None:
        """Record the steps of a peer so far; a smaller number changes nothing."""
        if not self.first:
            self.began = now
        self.first.setdefault(peer, steps)
        self.steps[peer] = max(steps, self.steps.get(peer, 0))

    def share(self) -> float | None:
        """Completed share, 0..1; None while the total is unknown."""
        return min(sum(self.steps.values()) / (self.total * self.peers), 1.0) if self.total else None

    def seconds_left(self, now: float) -> float | None:
        """Remaining seconds at the speed so far; None if unknown or finished."""
        moved = sum(self.steps.values()) - sum(self.first.values())
        if not self.total or moved <= 0 or now <= self.began:
            return None
        # A peer without a report counts as far as the slowest one.
        silent = (self.peers - len(self.steps)) * min(self.steps.values())
        rest = self.total * self.peers - sum(self.steps.values()) - silent
        return rest * (now - self.began) / moved if rest > 0 else None


def count_text(done: int, total: int) -> str:
    """Progress as 3/8, or in percent for long numbers; empty if the total is unknown."""
    if total <= 0:
        return ""
    return f"{done}/{total}" if total <= 10_000 else f"{100 * done / total:.0f} %"


def row_cells(info: RunInfo, row: RoundRow) -> dict[str, str]:
    """Text of a round by column; empty where it has no such number."""
    mixing = row.phase == "consensus"
    total = f"/{info.consensus_rounds}" if info.consensus_rounds else ""
    number = f"mix {row.round - info.rounds}{total}" if mixing else f"{row.round}/{info.rounds}"
    return {
        "round": number,
        "loss": "" if row.loss is None else f"{row.loss:.3f}",
        "accuracy": "" if row.accuracy is None else f"{100 * row.accuracy:.1f} %{_mark(row)}",
        "worst": "" if row.worst is None else f"{100 * row.worst:.1f} %",
        "distance": "" if row.distance is None else f"{row.distance:.3g}",
        "samples/s": "" if row.samples_per_second is None else f"{row.samples_per_second:,.0f}",
        "sent": bytes_text(row.bytes_sent),
    }


def _mark(row: RoundRow) -> str:
    """Mark of an accuracy that is not one of the test set."""
    return " (validation)" if row.evaluated_on == "validation" else ""


def row_line(info: RunInfo, row: RoundRow, seconds_left: float | None) -> str:
    """A finished round as one line."""
    text = row_cells(info, row)
    mixing = row.phase == "consensus"
    worst = f" (worst {text['worst']})" if text["worst"] else ""
    fields = [
        text["round"] if mixing else f"round {text['round']}",
        f"loss {text['loss']}" if text["loss"] else "",
        f"{'consensus model' if mixing else 'accuracy'} {text['accuracy']}{worst}" if text["accuracy"] else "",
        f"consensus distance {text['distance']}" if text["distance"] else "",
        f"{text['samples/s']} samples/s" if text["samples/s"] else "",
        f"{text['sent']} sent",
        "" if seconds_left is None or mixing else f"{clock_text(seconds_left)} left",
    ]
    return "  ".join(field_text for field_text in fields if field_text)
