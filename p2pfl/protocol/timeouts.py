"""How long a peer waits for its neighbors, and when it gives a sign of life or asks again.

Patience adapts to what was measured: ten times the slowest round so far, or the option if that is longer. It counts
from the neighbor's last message. A peer that is alive says so about once a second, so one that trains for long, or
waits itself for somebody who froze, is not given up with the culprit; but nobody waits longer than four times that
without any progress.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from p2pfl.protocol import events as ev
from p2pfl.protocol.logic import PATIENCE, remind_after
from p2pfl.protocol.membership import Neighbors

STALLED = 4.0  # times patience without a vector or an acknowledgement is the end, whatever signs of life there are
NOTICE_SECONDS = 1.0
SLOWER = 3.0  # times the slowest chunk so far, before one is missed


class Patience:
    """The clock of one peer's waiting. Times are seconds on the clock of `Peer.handle`."""

    def __init__(self, plan: ev.Plan) -> None:
        self._plan = plan
        self._training_since: float | None = None
        self._round_since = self._since = self._moved = self._reminded = 0.0
        self._chunk_at: dict[int, float] = {}  # by sender
        self._gap = 0.0  # the longest time between two chunks of a vector so far
        self._slowest = 0.0

    # What happens

    def wait(self, now: float) -> None:
        """A wait begins."""
        self._since = self._moved = self._reminded = now

    def begin(self, now: float) -> None:
        """A round begins."""
        self._round_since = now
        self.wait(now)

    def train(self, now: float) -> None:
        """The peer trains, and waits for nobody."""
        self._training_since = now

    def trained(self, now: float) -> None:
        """It has trained, and waits from now on."""
        assert self._training_since is not None
        self._slowest = max(self._slowest, now - self._training_since)
        self._training_since = None
        self.wait(now)

    def recorded(self, now: float) -> None:
        """The round is over."""
        self._slowest = max(self._slowest, now - self._round_since)

    def moved(self, now: float) -> None:
        """Something that was waited for came."""
        self._moved = now

    def received(self, sender: int, offset: int, now: float) -> None:
        """A chunk came; how long the next one takes may be guessed from that."""
        if offset > 0 and sender in self._chunk_at:
            self._gap = max(self._gap, now - self._chunk_at[sender])
        self._chunk_at[sender] = self._moved = now

    # What follows

    def deadline(self, stage: str, round: int, neighbors: Neighbors) -> float:
        """When it is time to look again: with the next sign of life, since asking who is silent takes longer."""
        due = self._notice_due(stage, neighbors)
        if stage != "greeting":
            return due
        return min(due, self._moved + self._seconds(stage, round), self._reminded + NOTICE_SECONDS)

    def exhausted(
        self, now: float, stage: str, round: int, waits: Collection[int], neighbors: Neighbors
    ) -> list[int] | None:
        """Those that have been silent for too long; empty where it is not neighbors that hold things up."""
        if not self._is_waiting(stage):
            return None
        seconds = self._seconds(stage, round)
        if stage == "greeting" or not waits:
            return sorted(waits) if now >= self._moved + seconds else None
        if now >= self._moved + STALLED * seconds:
            return sorted(waits)
        return [n for n in sorted(waits) if now >= neighbors.silent_since(n, self._since) + seconds] or None

    def complaint(self, now: float, stage: str, round: int, silent: Collection[int], neighbors: Neighbors) -> str:
        """One line about those."""
        names = self._plan.name(silent) or "(none: messages are not going out)"
        limits = self._plan.timeouts
        if stage == "greeting":
            option = "--handshake-timeout" if limits.start is None else "--start-timeout"
            return f"no greeting for {now - self._since:.0f} s from peer {names} ({option})"
        option = "--first-round-timeout" if round == self._plan.first_round else "--round-timeout"
        since = min((neighbors.silent_since(n, self._since) for n in silent), default=self._since)
        if now >= self._moved + STALLED * self._seconds(stage, round):  # signs of life, but nothing else
            since = self._moved
        return f"no progress for {now - since:.0f} s in round {round} from peer {names} ({option})"

    def notices(self, now: float, stage: str, neighbors: Neighbors) -> list[ev.Action]:
        """A sign of life, if one is due."""
        return neighbors.notices(now) if now >= self._notice_due(stage, neighbors) else []

    def reminds(self, now: float, stage: str, round: int) -> bool:
        """Whether to ask again for what is waited for."""
        seconds = self._seconds(stage, round)
        due = self._reminded + NOTICE_SECONDS if stage == "greeting" else self._remind_due(seconds)
        if not self._is_waiting(stage) or now < due:
            return False
        self._reminded = now
        return True

    def _is_waiting(self, stage: str) -> bool:
        return stage == "greeting" or (stage == "working" and self._training_since is None)

    def _seconds(self, stage: str, round: int) -> float:
        limits = self._plan.timeouts
        if stage == "greeting":
            return limits.handshake if limits.start is None else limits.start
        least = limits.first_round if round == self._plan.first_round else limits.round
        return max(least, PATIENCE * self._slowest)

    def _notice_due(self, stage: str, neighbors: Neighbors) -> float:
        if stage not in ("greeting", "working", "recording"):
            return math.inf
        return neighbors.spoken_at + min(NOTICE_SECONDS, self._plan.timeouts.round / STALLED)

    def _remind_due(self, seconds: float) -> float:
        return max(self._moved, self._reminded) + max(remind_after(seconds), SLOWER * self._gap)
