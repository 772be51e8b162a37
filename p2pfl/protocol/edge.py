"""Edge of one peer: epochs, and the handshake that agrees on a first round.

Each end numbers its epochs, and says `hello` once in each: the first round that it can serve, the first that it needs,
and which epoch of the other's it has heard of. Both ends compute the same from that: a direction is in use from the
later of what its sender can serve and its receiver needs. So a peer that resumed a round behind is served what it
missed, one that restarted continues where it was, and one that was away comes back in a round that both have yet to
do: a peer that has said `hello` does not pass the round that it named before it has an answer.

Epochs only grow, from the process's incarnation on, so that a message of an earlier one is known as stale.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from p2pfl.payload import Receipt
from p2pfl.protocol.states import EDGE, EdgeState
from p2pfl.protocol.wire import Header


class ResumePoint(NamedTuple):
    """First round that one end can serve the other, and first that it needs."""

    serves: int
    needs: int


class Reply(NamedTuple):
    """Outcome of a greeting: whether it is answered, and the new epoch stands."""

    is_answered: bool
    stands: bool


@dataclass
class Edge:
    """State of an edge: what this end has said, and in `their_*` what the other has."""

    epoch: int
    serves: int
    needs: int
    state: EdgeState = EdgeState.OFFERED
    is_missing: bool = False  # it went down, and has not come back yet
    their_epoch: int = 0  # the newest that was heard of
    their_serves: int = 0
    their_needs: int = 0
    their_round: int = 0  # where the other was when it said so
    their_receipt: Receipt = field(default_factory=Receipt)  # of this end's payloads
    has_lost_weights: bool = False  # the other end, which waits for others'

    @property
    def in_use(self) -> bool:
        """Whether the edge is up, or offered."""
        return self.state in (EdgeState.UP, EdgeState.OFFERED)

    @property
    def sends_from(self) -> int:
        """The first round whose vector goes to the neighbor."""
        return max(self.serves, self.their_needs)

    @property
    def expects_from(self) -> int:
        """The first round whose vector is waited for."""
        return max(self.their_serves, self.needs)

    def greeting(self, round: int, has_lost_weights: bool, received: Receipt) -> dict[str, float]:
        """Scalars of this end's `hello`, beside the round that it serves from.

        `received`: of the neighbor's payloads.
        """
        return {
            "epoch": float(self.epoch),
            "heard": float(self.their_epoch if self.state is EdgeState.UP else 0),
            "needs": float(self.needs),
            "round": float(round),
            "lost": float(has_lost_weights),
            "received": float(received.round),
            "digest": float(received.digest),
        }

    def offer(self, point: ResumePoint, is_answer: bool = False) -> None:
        """Begin an epoch.

        Until it is answered no round that was named may pass: it must be one still to do.
        """
        self._enter(EdgeState.OFFERED)
        self.epoch += 1
        self.serves, self.needs = point
        if not is_answer:
            self.serves = self.needs = max(point)
        self.their_serves = self.their_needs = self.their_round = 0

    def take_down(self) -> None:
        """Continue without the neighbor."""
        self._enter(EdgeState.DOWN)
        self.is_missing = True

    def finish(self) -> None:
        """Note that the neighbor has done its last round."""
        self._enter(EdgeState.FINISHED)
        self.is_missing = False

    def hello(self, header: Header, incarnation: int, point: ResumePoint) -> Reply:
        """Take the neighbor's greeting. `incarnation`: this end's first epoch."""
        told = header.scalars
        epoch, knows = int(told.get("epoch", 1)), int(told.get("heard", 0))
        is_known = epoch == self.their_epoch
        if 0 < knows < incarnation:
            # It confirms the edge to an earlier start of this process, as when it has just connected to this one's new
            # address. Where it is, it says in answer to this start's greeting.
            return Reply(False, False)
        if epoch < self.their_epoch or (is_known and self.state is not EdgeState.DOWN):
            # Stale, or said again; perhaps because this peer's own greeting got lost.
            return Reply(is_known and self.state is EdgeState.UP and knows != self.epoch, False)
        if not self.in_use and (knows or is_known):
            # It does not know yet that the edge is down, and will answer this.
            self.offer(point)
            return Reply(True, False)
        if not knows and self.state is not EdgeState.OFFERED:
            self.offer(point, is_answer=True)  # it was away, has restarted or took the edge down
        is_first = self.epoch == incarnation and self.state is EdgeState.OFFERED
        self._enter(EdgeState.UP)
        self.is_missing = False
        self.their_epoch, self.their_serves = epoch, header.round
        self.their_needs = int(told.get("needs", header.round))
        self.their_round = int(told.get("round", header.round))
        self.their_receipt = Receipt(int(told.get("received", 0)), int(told.get("digest", 0)))
        self.has_lost_weights = bool(told.get("lost", 0.0))
        # What it knows is this epoch, or an earlier one while the greeting of this one is on its way; the very first
        # greetings cross, each being the answer to the other.
        return Reply(not (knows or is_first), True)

    def down(self, header: Header, point: ResumePoint) -> bool:
        """Offer the edge again that the other end has taken down. False if stale."""
        epoch = int(header.scalars.get("epoch", 1))
        if epoch < self.their_epoch or self.state is EdgeState.FINISHED:
            return False
        self.their_epoch, self.is_missing = epoch, True
        self.offer(point)
        return True

    def _enter(self, state: EdgeState) -> None:
        self.state = EDGE.check(self.state, state)
