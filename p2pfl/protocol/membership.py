"""Membership of one peer's neighborhood: which edges are up and from which round, and the handshake that decides it.

An edge has epochs. Each end numbers its own, and says `hello` once in each: the first round that it can serve, the
first that it needs, and which epoch of the other's it has heard of. Both ends compute the same from that: a direction
is in use from the later of what its sender can serve and its receiver needs. So a peer that resumed a round behind is
served what it missed, one that restarted continues where it was, and one that was away comes back in a round that both
have yet to do: a peer that has said `hello` does not pass the round that it named before it has an answer.

An edge goes down when a neighbor is lost or silent for too long; `edge_down` tells the other end, which may be alive.
Epochs only grow, from the process's incarnation on, so that a message of an earlier one is known as stale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from p2pfl.protocol import events as ev
from p2pfl.protocol.context import PeerContext
from p2pfl.protocol.session import Session
from p2pfl.protocol.states import EDGE, EdgeState
from p2pfl.protocol.wire import Header


class ResumePoint(NamedTuple):
    """Where an edge's use may begin: the first round that one end can serve the other, and the first that it needs."""

    serves: int
    needs: int


@dataclass
class Edge:
    """One edge as this end sees it: `serves` and `needs` are what this end has said, `their_*` what the other has."""

    epoch: int
    serves: int
    needs: int
    state: EdgeState = EdgeState.OFFERED
    is_missing: bool = False  # it went down, and has not come back yet
    their_epoch: int = 0  # the newest that was heard of
    their_serves: int = 0
    their_needs: int = 0
    their_round: int = 0  # where the other was when it said so
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

    def enter(self, state: EdgeState) -> None:
        """Change the state."""
        self.state = EDGE.check(self.state, state)


class Membership:
    """The edges of one peer. The methods that may begin an epoch are given this end's resume point at that moment."""

    def __init__(self, context: PeerContext, session: Session, points: Mapping[int, ResumePoint]) -> None:
        """`points`: this end's resume point for each neighbor at the start."""
        self._context = context
        self._session = session
        self._edges = {n: Edge(context.incarnation, *points[n]) for n in sorted(context.links)}
        for n in context.absent:
            self._edges[n].state, self._edges[n].is_missing = EdgeState.DOWN, True
        self._has_lost_weights = context.has_lost_weights
        self._unreachable: set[int] = set()

    # Questions

    def serves(self, neighbor: int, round: int) -> bool:
        """Whether a neighbor gets this round's vector."""
        edge = self._edges[neighbor]
        return edge.in_use and round >= edge.sends_from

    def expects(self, neighbor: int, round: int) -> bool:
        """Whether a neighbor's vector of this round is waited for."""
        edge = self._edges[neighbor]
        return edge.in_use and round >= edge.expects_from

    def expected_from(self, neighbor: int) -> int:
        """The first round whose vector is waited for."""
        return self._edges[neighbor].expects_from

    def is_in_use(self, neighbor: int) -> bool:
        """Whether the edge is up, or offered."""
        return self._edges[neighbor].in_use

    def is_up(self, neighbor: int) -> bool:
        """Whether the edge is up."""
        return self._edges[neighbor].state is EdgeState.UP

    def has_finished(self, neighbor: int) -> bool:
        """Whether the neighbor has done its last round."""
        return self._edges[neighbor].state is EdgeState.FINISHED

    @property
    def missing(self) -> set[int]:
        """Neighbors without whom the peer continues, and that have not finished."""
        return {n for n, edge in self._edges.items() if edge.is_missing}

    @property
    def ungreeted(self) -> list[int]:
        """Neighbors that are waited for and have not greeted."""
        return [n for n, edge in self._edges.items() if edge.state is EdgeState.OFFERED]

    @property
    def unreachable(self) -> list[int]:
        """Those of them to which there is no connection."""
        return [n for n in self.ungreeted if n in self._unreachable]

    @property
    def up(self) -> list[int]:
        """Neighbors whose edge is up."""
        return [n for n, edge in self._edges.items() if edge.state is EdgeState.UP]

    @property
    def all_lost_weights(self) -> bool:
        """Whether all that are up have lost their weights."""
        return all(self._edges[n].has_lost_weights for n in self.up)

    @property
    def all_finished(self) -> bool:
        """Whether all have finished."""
        return all(edge.state is EdgeState.FINISHED for edge in self._edges.values())

    def ahead_of(self, round: int, senders: frozenset[int], slack: int) -> int:
        """The round to jump to, if some of the `senders` are more than `slack` rounds further: the least of theirs."""
        limit = round + 1 + slack
        edges = [edge for n, edge in self._edges.items() if n in senders and edge.in_use]
        return max(round, min((edge.expects_from for edge in edges if edge.their_round > limit), default=round))

    # This end's messages

    def greet(self, neighbor: int, round: int) -> ev.Send:
        """Say (again) how this end's epoch stands."""
        edge = self._edges[neighbor]
        about = {
            "epoch": float(edge.epoch),
            "heard": float(edge.their_epoch if edge.state is EdgeState.UP else 0),
            "needs": float(edge.needs),
            "round": float(round),
            "lost": float(self._has_lost_weights),
        }
        return self._session.say("hello", neighbor, edge.serves, about)

    def greet_all(self, round: int) -> list[ev.Action]:
        """Say the greeting with which a peer begins."""
        return [self.greet(n, round) for n, edge in self._edges.items() if edge.in_use]

    def reconnected(self, neighbor: int, round: int, point: ResumePoint) -> list[ev.Action]:
        """Offer an edge that was down, or confirm one that is up, now that there is a connection (again)."""
        edge = self._edges[neighbor]
        self._unreachable.discard(neighbor)
        if edge.state is EdgeState.FINISHED:
            return []
        if edge.state is EdgeState.DOWN:
            self._offer(edge, point)
        return [self.greet(neighbor, round)]

    def expect_back(self, neighbor: int, round: int, point: ResumePoint) -> list[ev.Action]:
        """Wait for a neighbor that is known to be back in this round."""
        edge = self._edges[neighbor]
        if edge.state is not EdgeState.DOWN:
            return []
        self._offer(edge, point)
        return [self.greet(neighbor, round)]

    def jump(self, round: int, serves: int) -> list[ev.Action]:
        """Begin an epoch of every edge: this peer jumps to a later round, and can serve others from `serves` on."""
        actions: list[ev.Action] = []
        self._has_lost_weights = False
        for n, edge in self._edges.items():
            if edge.in_use:
                edge.epoch += 1
                edge.serves, edge.needs = serves, round
                actions.append(self.greet(n, round))
        return actions

    def take_down(self, neighbor: int) -> list[ev.Action]:
        """Take the edge down, and say so: the other end may be alive."""
        edge = self._edges[neighbor]
        if not edge.in_use:
            return []
        edge.enter(EdgeState.DOWN)
        edge.is_missing = True
        return [self._session.say("edge_down", neighbor, 0, {"epoch": float(edge.epoch)})]

    # The other ends' messages

    def hello(self, header: Header, round: int, point: ResumePoint) -> tuple[list[ev.Action], bool]:
        """Take a greeting: what to answer, and whether the edge has a new epoch that stands now."""
        neighbor, told = header.sender, header.scalars
        edge = self._edges[neighbor]
        if header.round > self._context.last_round and edge.state is not EdgeState.FINISHED:
            self.finish(neighbor)
            return [], True
        epoch, knows = int(told.get("epoch", 1)), int(told.get("heard", 0))
        known = epoch == edge.their_epoch
        if epoch < edge.their_epoch or (known and edge.state is not EdgeState.DOWN):
            # Stale, or said again; perhaps because this peer's own greeting got lost.
            lost = known and edge.state is EdgeState.UP and knows != edge.epoch
            return ([self.greet(neighbor, round)] if lost else []), False
        if not edge.in_use and (knows or known):
            # It does not know yet that the edge is down, and will answer this.
            self._offer(edge, point)
            return [self.greet(neighbor, round)], False
        if not knows and edge.state is not EdgeState.OFFERED:
            self._offer(edge, point, is_answer=True)  # it was away, has restarted or took the edge down
        is_first = edge.epoch == self._context.incarnation and edge.state is EdgeState.OFFERED
        edge.enter(EdgeState.UP)
        edge.their_epoch, edge.is_missing = epoch, False
        edge.their_serves = header.round
        edge.their_needs = int(told.get("needs", header.round))
        edge.their_round = int(told.get("round", header.round))
        edge.has_lost_weights = bool(told.get("lost", 0.0))
        self._unreachable.discard(neighbor)
        # What it knows is this epoch, or an earlier one while the greeting of this one is on its way; the very first
        # greetings cross, each being the answer to the other.
        return ([] if knows or is_first else [self.greet(neighbor, round)]), True

    def edge_down(self, header: Header, round: int, point: ResumePoint) -> tuple[list[ev.Action], bool]:
        """Offer an edge again that the other end has taken down, since there is a connection; whether it was in use."""
        neighbor, edge = header.sender, self._edges[header.sender]
        epoch = int(header.scalars.get("epoch", 1))
        if epoch < edge.their_epoch or edge.state is EdgeState.FINISHED:
            return [], False
        edge.their_epoch = epoch
        was_in_use, edge.is_missing = edge.in_use, True
        self._offer(edge, point)
        return [self.greet(neighbor, round)], was_in_use

    def is_at_work(self, neighbor: int) -> bool:
        """Note that the neighbor is in a round; whether that is news of one that had lost its weights."""
        edge = self._edges[neighbor]
        was, edge.has_lost_weights = edge.has_lost_weights, False
        return was

    def finish(self, neighbor: int) -> None:
        """Note that the neighbor has done its last round."""
        edge = self._edges[neighbor]
        edge.enter(EdgeState.FINISHED)
        edge.is_missing = False

    def lose(self, neighbor: int) -> None:
        """Note that there is no connection to the neighbor."""
        self._unreachable.add(neighbor)

    def _offer(self, edge: Edge, point: ResumePoint, is_answer: bool = False) -> None:
        """Begin an epoch. Until it is answered no round that was named may pass: it must be one still to do."""
        edge.enter(EdgeState.OFFERED)
        edge.epoch += 1
        edge.serves, edge.needs = point
        if not is_answer:
            edge.serves = edge.needs = max(point)
        edge.their_serves = edge.their_needs = edge.their_round = 0
