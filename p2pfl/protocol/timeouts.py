"""Failure detection by adaptive timeouts, for peers, coordinator and clients.

A timeout is ten times the slowest round so far, or the option if that is longer, and counts from a neighbor's last
message. Peers send a heartbeat about once a second, so that one that trains for long, or waits itself for one that
has stopped, is not suspected with the culprit; but no wait lasts longer than four timeouts without any progress.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Literal

from p2pfl.protocol.context import PeerContext

TIMEOUT_FACTOR = 10.0  # others may take this many times as long as was measured
STALL_FACTOR = 4.0  # timeouts without a vector or an acknowledgement are the end, whatever heartbeats there are
HEARTBEAT_SECONDS = 1.0
SLOW_CHUNK_FACTOR = 3.0  # times the slowest chunk so far, before one is missed
RETRY_SECONDS = 5.0

Wait = Literal["greeting", "round"]


class FailureDetector:
    """Adaptive timeouts of one process's waiting; times are steady seconds."""

    def __init__(self, context: PeerContext, fixed: float | None = None) -> None:
        """`fixed`: the timeout of every round, in place of what was measured."""
        self._context = context
        self._fixed = fixed
        self.waiting_since = self.progress_at = 0.0
        self._retried_at = 0.0
        self._heartbeat_at = math.inf  # when the last heartbeats were sent
        self._training_since: float | None = None
        self._round_since = 0.0
        self._heard_at: dict[int, float] = {}
        self._chunk_at: dict[int, float] = {}  # by sender
        self._slowest_chunk = 0.0  # the longest time between two chunks of a vector so far
        self._slowest = 0.0

    # Observations

    def begin_wait(self, now: float) -> None:
        """A wait begins."""
        self.waiting_since = self.progress_at = self._retried_at = now

    def begin_round(self, now: float) -> None:
        """A round begins."""
        self._round_since = now
        self.begin_wait(now)

    def end_round(self, now: float) -> None:
        """The round is over; others may take as long as it took, times TIMEOUT_FACTOR."""
        self._slowest = max(self._slowest, now - self._round_since)

    def begin_training(self, now: float) -> None:
        """The process trains, and waits for no neighbor."""
        self._training_since = now

    def end_training(self, now: float) -> None:
        """It has trained, and waits from now on."""
        assert self._training_since is not None
        self._slowest = max(self._slowest, now - self._training_since)
        self._training_since = None
        self.begin_wait(now)

    def progress(self, now: float) -> None:
        """Something that was waited for came."""
        self.progress_at = now

    def heard(self, neighbor: int, now: float) -> None:
        """A message came from a neighbor."""
        self._heard_at[neighbor] = now

    def chunk(self, sender: int, offset: int, now: float) -> None:
        """A chunk came; how long the next one takes may be guessed from that."""
        if offset > 0 and sender in self._chunk_at:
            self._slowest_chunk = max(self._slowest_chunk, now - self._chunk_at[sender])
        self._chunk_at[sender] = self.progress_at = now

    def sent_heartbeats(self, now: float) -> None:
        """All neighbors have been sent something."""
        self._heartbeat_at = now

    # Verdicts

    @property
    def is_training(self) -> bool:
        """Whether the process itself is at work."""
        return self._training_since is not None

    @property
    def heartbeat_due(self) -> float:
        """When the next heartbeats are due."""
        return self._heartbeat_at + min(HEARTBEAT_SECONDS, self._context.timeouts.round / STALL_FACTOR)

    def timeout(self, wait: Wait, round: int) -> float:
        """Seconds that others may be silent while they are waited for."""
        limits = self._context.timeouts
        if wait == "greeting":
            return limits.handshake if limits.start is None else limits.start
        if self._fixed is not None:
            return self._fixed
        least = limits.first_round if self._is_first(round) else limits.round
        return max(least, TIMEOUT_FACTOR * self._slowest)

    def deadline(self, wait: Wait, round: int) -> float:
        """Time of the next look: heartbeats come before any timeout or retry of a round."""
        if wait == "round":
            return self.heartbeat_due
        return min(self.heartbeat_due, self.progress_at + self.timeout(wait, round), self.retry_due(wait, round))

    def retry_due(self, wait: Wait, round: int) -> float:
        """When to ask again for what is waited for, since a message may have got lost."""
        if wait == "greeting":
            return self._retried_at + HEARTBEAT_SECONDS
        seconds = max(retry_after(self.timeout(wait, round)), SLOW_CHUNK_FACTOR * self._slowest_chunk)
        return max(self.progress_at, self._retried_at) + seconds

    def retried(self, now: float) -> None:
        """Note that what is waited for has been asked for again."""
        self._retried_at = now

    def suspects(self, now: float, wait: Wait, round: int, waits: Collection[int]) -> list[int] | None:
        """Neighbors of those waited for that have been silent for too long.

        Empty where it is not neighbors that hold things up, None while there is still time.
        """
        seconds = self.timeout(wait, round)
        if wait == "greeting" or not waits:
            return sorted(waits) if now >= self.progress_at + seconds else None
        if self._is_stalled(now, seconds):
            return sorted(waits)
        return [n for n in sorted(waits) if now >= self._silent_since(n) + seconds] or None

    def timeout_text(self, now: float, wait: Wait, round: int, suspects: Collection[int]) -> str:
        """One line about the suspects, with the option that sets the limit."""
        names = self._context.name(suspects) or "(none: messages are not going out)"
        if wait == "greeting":
            option = "--handshake-timeout" if self._context.timeouts.start is None else "--start-timeout"
            return f"no greeting for {now - self.waiting_since:.0f} s from peer {names} ({option})"
        option = "--first-round-timeout" if self._is_first(round) else "--round-timeout"
        since = min((self._silent_since(n) for n in suspects), default=self.waiting_since)
        if self._is_stalled(now, self.timeout(wait, round)):  # heartbeats came, but nothing else
            since = self.progress_at
        return f"no progress for {now - since:.0f} s in round {self._context.shown(round)} from peer {names} ({option})"

    def _is_first(self, round: int) -> bool:
        """Whether an exchange is of the first round of the run that this process does."""
        return self._context.shown(round) == self._context.shown(self._context.first_round)

    def _is_stalled(self, now: float, seconds: float) -> bool:
        return now >= self.progress_at + STALL_FACTOR * seconds

    def _silent_since(self, neighbor: int) -> float:
        """When the neighbor was last heard, or the wait for it began."""
        return max(self.waiting_since, self._heard_at.get(neighbor, self.waiting_since))


def retry_after(timeout: float) -> float:
    """Seconds without any progress after which what is waited for is asked for again."""
    return min(RETRY_SECONDS, timeout / 4.0)
