"""Watch of one peer over its neighbors: heartbeats, retries, failures, mismatches."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field

from p2pfl.errors import NeighborCode
from p2pfl.protocol import events as ev
from p2pfl.protocol.context import PeerContext
from p2pfl.protocol.exchange import Exchange
from p2pfl.protocol.greeting import MismatchError
from p2pfl.protocol.states import Stage
from p2pfl.protocol.timeouts import FailureDetector, Wait

# Seconds between the greeting of a neighbor that was started with something else and the end of the peer, in which the
# neighbor gets this peer's greeting and can say the same.
MISMATCH_SECONDS = 2.0
_LAST_WORD = "and only its last acknowledgement is missing; if it has failed, resume both"


@dataclass
class Verdict:
    """Outcome of a look: the end of the peer, or suspects to continue without."""

    actions: list[ev.Action] = field(default_factory=list)
    failure: ev.Fail | None = None
    suspects: list[int] = field(default_factory=list)
    why: str = ""


class Watch:
    """One peer's watch, by the clock of its failure detector."""

    def __init__(self, context: PeerContext, exchange: Exchange, detector: FailureDetector) -> None:
        self._context = context
        self._exchange = exchange
        self._detector = detector
        self._mismatches: dict[int, str] = {}  # how neighbors differ that were started with something else
        self._mismatch_ends_at = math.inf  # then the peer ends, if it cannot begin without them

    def deadline(self, stage: Stage) -> float:
        """When to look: a timeout, a retry or the next heartbeats."""
        round = self._exchange.round
        if stage is Stage.GREETING:
            return min(self._detector.deadline("greeting", round), self._mismatch_ends_at)
        return self._detector.deadline("round", round) if stage in (Stage.WORKING, Stage.RECORDING) else math.inf

    def mismatch(self, sender: int, error: MismatchError, stage: Stage, now: float) -> list[ev.Action]:
        """End the peer soon, unless it may begin without this mismatched neighbor."""
        is_first = sender not in self._mismatches
        self._mismatches.setdefault(sender, error.detail)
        refused = self._exchange.channel.refuse(error.code, error.detail)
        if stage is not Stage.GREETING:
            return refused
        answer = [self._exchange.membership.greet(sender, self._exchange.round)] if is_first else []
        if self._exchange.membership.can_spare(self._mismatches):
            return [*refused, *answer]
        self._mismatch_ends_at = min(self._mismatch_ends_at, now + MISMATCH_SECONDS)
        return [*(ev.Note(note.text) for note in refused if isinstance(note, ev.Note)), *answer]  # its end will say it

    @property
    def round(self) -> int:
        """The run's round that the peer is in, for messages."""
        return self._context.numbering.round_of(self._exchange.round)

    def lost(self, neighbor: int) -> Verdict:
        """Judge a neighbor whose connection is lost."""
        if not self._exchange.membership.is_in_use(neighbor):
            return Verdict()
        if self._exchange.membership.can_spare([neighbor]):
            return Verdict(suspects=[neighbor], why="connection lost")
        if self._needs_no_more_of([neighbor]):
            return Verdict(suspects=[neighbor], why=f"connection lost, {_LAST_WORD}")
        reason = f"lost the connection to peer {self._context.name([neighbor])} in round {self.round}"
        return Verdict(failure=ev.Fail(reason, code="lost-connection", peers=(neighbor,)))

    def check(self, stage: Stage, now: float) -> Verdict:
        """Send heartbeats, ask again, and judge those that have been silent too long."""
        if stage is Stage.GREETING and now >= self._mismatch_ends_at:
            return Verdict(failure=ev.Fail(next(iter(self._mismatches.values())), resumable=False, usage=True))
        membership, verdict = self._exchange.membership, Verdict()
        if now >= self._detector.heartbeat_due:
            self._detector.sent_heartbeats(now)
            verdict.actions += membership.heartbeats()
        if stage not in (Stage.GREETING, Stage.WORKING) or self._detector.is_training:
            return verdict
        wait: Wait = "greeting" if stage is Stage.GREETING else "round"
        self._judge(wait, now, verdict)
        return verdict

    def _judge(self, wait: Wait, now: float, verdict: Verdict) -> None:
        membership, round = self._exchange.membership, self._exchange.round
        waits = set(membership.ungreeted) if wait == "greeting" else self._exchange.waits_for()
        suspects = self._detector.suspects(now, wait, round, waits)
        if suspects is None:
            if now >= self._detector.retry_due(wait, round):
                self._detector.retried(now)
                verdict.actions += membership.ask_again(waits, round)
            return
        why = self._detector.timeout_text(now, wait, round, suspects)
        if wait == "greeting" and self._context.has_lost_weights and not suspects:
            why = "no checkpoint of this peer can be used, nor of its neighbors; start a new run without --resume"
            verdict.failure = ev.Fail(why, resumable=False)
        elif suspects and not membership.can_spare(suspects) and self._needs_no_more_of(suspects):
            verdict.suspects, verdict.why = suspects, f"{why}, {_LAST_WORD}"
        elif not suspects or not membership.can_spare(suspects):
            code: NeighborCode = "no-greeting" if wait == "greeting" else "no-progress"
            verdict.failure = ev.Fail(why, code=code, peers=tuple(suspects))
        else:
            verdict.suspects, verdict.why = suspects, why

    def _needs_no_more_of(self, neighbors: Collection[int]) -> bool:
        """Whether these owe nothing but the acknowledgement of the last vector.

        It was lost with the link if they have finished: then nothing is left to do here. One that has failed needs the
        vector again, and gets it when both are resumed, since the last round is done again.
        """
        aggregation = self._exchange.aggregation
        if aggregation is None or self._exchange.round != self._context.last_round:
            return False
        return aggregation.waits_for().isdisjoint(neighbors)
