"""Membership of a neighborhood: who is there, who is missing, who has finished.

An edge goes down when a neighbor is lost or silent for too long; `edge_down` tells the other end, which may be alive.
How an edge comes up again, and from which round on it is used, is `edge`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from p2pfl.payload import Receipt
from p2pfl.protocol import events as ev
from p2pfl.protocol.channel import Channel
from p2pfl.protocol.context import PeerContext
from p2pfl.protocol.edge import Edge, ResumePoint
from p2pfl.protocol.states import EdgeState
from p2pfl.protocol.wire import Header


class Membership:
    """Edges of one peer; what may begin an epoch is given this end's resume point."""

    def __init__(
        self,
        context: PeerContext,
        channel: Channel,
        points: Mapping[int, ResumePoint],
        received: Callable[[int], Receipt] = lambda neighbor: Receipt(),
    ) -> None:
        """`points`: this end's resume point for each neighbor at the start.

        `received`: receipt of a neighbor's payloads.
        """
        self._context = context
        self._channel = channel
        self._received = received
        self._edges = {n: Edge(context.incarnation, *points[n]) for n in sorted(context.links)}
        for n in context.absent:
            self._edges[n].take_down()
        self._has_lost_weights = context.has_lost_weights
        self._unreachable: set[int] = set()
        self._awaited: set[tuple[int, int]] = set()  # neighbors with the rounds in which they were waited for

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

    def delivery(self, neighbor: int) -> tuple[Receipt, int]:
        """A neighbor's receipt, and the first round whose vector goes to it."""
        edge = self._edges[neighbor]
        return edge.their_receipt, edge.sends_from

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

    def can_spare(self, neighbors: Collection[int]) -> bool:
        """Whether the peer may continue without these too."""
        return len(self.missing | set(neighbors)) <= self._context.max_missing

    def may_begin(self, is_behind: bool) -> bool:
        """Whether no greeting is waited for; `is_behind`: others are rounds ahead.

        Unreachable neighbors are away, if a launcher has waited for all to be there, or others are at work.
        """
        if ungreeted := self.ungreeted:
            late = self._context.is_rejoining or is_behind or self._context.timeouts.start is None
            if not (late and self.can_spare(ungreeted) and self._unreachable >= set(ungreeted) and self.up):
                return False
        elif self.all_finished:
            return True
        # Where all have lost their weights, a peer further away may have some, and these will be heard of again.
        return not (self._context.has_lost_weights and not is_behind and self.all_lost_weights)

    def ahead_of(self, round: int, senders: Collection[int], slack: int) -> int:
        """Round to jump to: the least of `senders` more than `slack` rounds ahead.

        One that has been started in the round of its scripted return is ahead of nobody: it waits there.
        """
        limit, returns = round + 1 + slack, self._context.expected_returns
        in_use = [(n, edge) for n, edge in self._edges.items() if n in senders and edge.in_use]
        edges = [edge for n, edge in in_use if edge.their_round not in returns.get(n, ())]
        return max(round, min((edge.expects_from for edge in edges if edge.their_round > limit), default=round))

    # This end's messages

    def greet(self, neighbor: int, round: int) -> ev.Send:
        """Greet a neighbor with the epoch of this end's edge."""
        edge = self._edges[neighbor]
        about = edge.greeting(round, self._has_lost_weights, self._received(neighbor))
        return self._channel.message("hello", neighbor, edge.serves, about)

    def greet_all(self, round: int) -> list[ev.Action]:
        """Greet all neighbors, as a peer begins."""
        return [self.greet(n, round) for n, edge in self._edges.items() if edge.in_use]

    def heartbeats(self) -> list[ev.Action]:
        """Send a heartbeat to every neighbor whose edge is up."""
        return [self._channel.message("heartbeat", n, 0) for n in self.up]

    def ask_again(self, neighbors: Collection[int], round: int) -> list[ev.Action]:
        """Repeat greeting, grants and acknowledgements that may have got lost."""
        actions: list[ev.Action] = []
        for n in sorted(neighbors):
            if self._edges[n].state is EdgeState.OFFERED:
                actions.append(self.greet(n, round))
            actions += self._channel.remind(n)
        return actions

    def reconnected(self, neighbor: int, round: int, point: ResumePoint) -> list[ev.Action]:
        """Offer an edge that was down, or confirm one that is up."""
        edge = self._edges[neighbor]
        self._unreachable.discard(neighbor)
        if edge.state is EdgeState.FINISHED:
            return []
        if edge.state is EdgeState.DOWN:
            edge.offer(point)
        return [self.greet(neighbor, round)]

    def expect_back(self, neighbor: int, round: int, point: ResumePoint) -> list[ev.Action]:
        """Wait for a neighbor that is known to be back in this round."""
        edge = self._edges[neighbor]
        if edge.state is not EdgeState.DOWN:
            return []
        self._awaited.add((neighbor, round))
        edge.offer(point)
        return [self.greet(neighbor, round)]

    def expect_late(self, neighbor: int, round: int, point: ResumePoint) -> list[ev.Action]:
        """Wait for a neighbor that was to be back already, if it was not waited for.

        On a schedule this peer may hear only after that round that the neighbor was away.
        """
        back = self._context.expected_returns.get(neighbor, ())
        due = max((number for number in back if number <= round), default=None)
        if self._context.period == 1 or due is None or (neighbor, due) in self._awaited:
            return []
        return self.expect_back(neighbor, due, point)

    def jump(self, round: int, serves: int) -> list[ev.Action]:
        """Begin an epoch of every edge: this peer jumps, and serves from `serves` on."""
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
        edge.take_down()
        return [self._channel.message("edge_down", neighbor, 0, {"epoch": float(edge.epoch)})]

    # The other ends' messages

    def hello(self, header: Header, round: int, point: ResumePoint) -> tuple[list[ev.Action], bool]:
        """Take a greeting: the answer, and whether a new epoch or the end stands."""
        edge = self._edges[header.sender]
        if header.round > self._context.last_round and edge.state is not EdgeState.FINISHED:
            edge.finish()
            return [], True
        reply = edge.hello(header, self._context.incarnation, point)
        if reply.stands:
            self._unreachable.discard(header.sender)
        return ([self.greet(header.sender, round)] if reply.is_answered else []), reply.stands

    def edge_down(self, header: Header, round: int, point: ResumePoint) -> tuple[list[ev.Action], bool]:
        """Offer an edge again that the other end took down; whether it was in use."""
        edge = self._edges[header.sender]
        was_in_use = edge.in_use
        if not edge.down(header, point):
            return [], False
        return [self.greet(header.sender, round)], was_in_use

    def is_at_work(self, neighbor: int) -> bool:
        """Note that a neighbor is in a round; True if it had lost its weights."""
        edge = self._edges[neighbor]
        was, edge.has_lost_weights = edge.has_lost_weights, False
        return was

    def finish(self, neighbor: int) -> None:
        """Note that the neighbor has done its last round."""
        self._edges[neighbor].finish()

    def lose(self, neighbor: int) -> None:
        """Note that there is no connection to the neighbor."""
        self._unreachable.add(neighbor)
