"""A peer's neighbors: which edges stand and from which round, and the handshake by which they go down and come back.

An edge has episodes. Each end numbers its own, and says `hello` once in each: the first round that it can serve, the
first that it needs, and which episode of the other's it has heard of. Both ends compute the same from that: a
direction is in use from the later of what its sender can serve and its receiver needs. So a peer that resumed a round
behind is served what it missed, one that restarted goes on where it was, and one that was away comes back in a round
that both have yet to do: whoever has said `hello` does not pass the round that it named before it has an answer.

An edge goes down when a neighbor is lost or silent for too long; `drop` tells the other end, which may be alive.
Episode numbers only grow, from `Plan.life` on, so what an earlier episode or life said is known as stale.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from p2pfl.protocol import events as ev
from p2pfl.protocol.session import Session
from p2pfl.protocol.wire import Header

Standing = Callable[[int], tuple[int, int]]
"""For a neighbor: the first round that this peer can serve it, and the first that it needs of it."""


@dataclass
class Edge:
    """One edge as this end sees it: `serves` and `needs` are what this end has said, `their_*` what the other has."""

    episode: int
    serves: int
    needs: int
    up: bool = True
    away: bool = False  # it has been done without, and has not come back yet
    heard: bool = False  # in this episode
    theirs: int = 0  # the newest episode of the other end
    their_serves: int = 0
    their_needs: int = 0
    their_round: int = 0  # where the other was when it said so
    left: bool = False  # it has finished and said goodbye
    lost: bool = False  # it has lost its weights, and waits for others'

    @property
    def sends_from(self) -> int:
        """The first round whose vector goes to the neighbor."""
        return max(self.serves, self.their_needs)

    @property
    def expects_from(self) -> int:
        """The first round whose vector is waited for."""
        return max(self.their_serves, self.needs)


class Neighbors:
    """The edges of one peer. `standing` says what it can serve and needs at this moment."""

    def __init__(self, plan: ev.Plan, session: Session, standing: Standing) -> None:
        self._plan = plan
        self._session = session
        self._standing = standing
        self._edges = {n: Edge(plan.life, *standing(n)) for n in sorted(plan.links)}
        for n in plan.absent:
            self._edges[n].up, self._edges[n].away = False, True
        self._lost = plan.lost
        self._unreachable: set[int] = set()
        self._heard_at: dict[int, float] = {}
        self.spoken_at = math.inf  # when all were last given a sign of life

    # What holds now

    def serves(self, neighbor: int, round: int) -> bool:
        """Whether a neighbor gets this round's vector."""
        edge = self._edges[neighbor]
        return edge.up and round >= edge.sends_from

    def expects(self, neighbor: int, round: int) -> bool:
        """Whether a neighbor's vector of this round is waited for."""
        edge = self._edges[neighbor]
        return edge.up and round >= edge.expects_from

    def is_up(self, neighbor: int) -> bool:
        """Whether the edge stands, or is offered."""
        return self._edges[neighbor].up

    def has_left(self, neighbor: int) -> bool:
        """Whether it has finished."""
        return self._edges[neighbor].left

    @property
    def away(self) -> set[int]:
        """Those that are done without and have not finished."""
        return {n for n, edge in self._edges.items() if edge.away and not edge.left}

    @property
    def unheard(self) -> list[int]:
        """Those that are waited for and have not greeted."""
        return [n for n, edge in self._edges.items() if edge.up and not edge.heard]

    @property
    def heard_any(self) -> bool:
        """Whether somebody has greeted and is here."""
        return any(edge.up and edge.heard for edge in self._edges.values())

    @property
    def all_lost(self) -> bool:
        """Whether all that are here have lost their weights."""
        return all(edge.lost for edge in self._edges.values() if edge.up and edge.heard)

    @property
    def all_left(self) -> bool:
        """Whether all have finished."""
        return all(edge.left for edge in self._edges.values())

    @property
    def unreachable(self) -> list[int]:
        """Those of them to which there is no connection."""
        return [n for n in self.unheard if n in self._unreachable]

    def expected_from(self, neighbor: int) -> int:
        """The first round whose vector is waited for."""
        return self._edges[neighbor].expects_from

    def ahead_of(self, round: int, senders: frozenset[int], slack: int) -> int:
        """The round to jump to, if some of the `senders` are more than `slack` rounds further: the least of theirs."""
        limit = round + 1 + slack
        ahead = [e.expects_from for n, e in self._edges.items() if n in senders and e.up and e.their_round > limit]
        return max(round, min(ahead, default=round))

    def silent_since(self, neighbor: int, began: float) -> float:
        """When the neighbor was last heard, or the wait for it began."""
        return max(began, self._heard_at.get(neighbor, began))

    # What is said

    def greet(self, neighbor: int, round: int) -> ev.Send:
        """Say (again) how this end's episode stands."""
        edge = self._edges[neighbor]
        about = {
            "episode": float(edge.episode),
            "heard": float(edge.theirs if edge.heard else 0),
            "needs": float(edge.needs),
            "round": float(round),
            "lost": float(self._lost),
        }
        return self._session.say("hello", neighbor, edge.serves, about)

    def greet_all(self, round: int) -> list[ev.Action]:
        """The greeting with which a peer begins."""
        return [self.greet(n, round) for n, edge in self._edges.items() if edge.up]

    def reconnected(self, neighbor: int, round: int) -> list[ev.Action]:
        """There is a connection (again): an edge that was down is offered, one that stands is confirmed."""
        edge = self._edges[neighbor]
        self._unreachable.discard(neighbor)
        if edge.left:
            return []
        if not edge.up:
            self._open(neighbor)
        return [self.greet(neighbor, round)]

    def expect_back(self, neighbor: int, round: int) -> list[ev.Action]:
        """The neighbor is known to be back in this round: wait for it."""
        edge = self._edges[neighbor]
        if edge.up or edge.left:
            return []
        self._open(neighbor)
        return [self.greet(neighbor, round)]

    def jump(self, round: int, serves: int) -> list[ev.Action]:
        """This peer goes straight to a later round, and can serve others from `serves` on: all edges begin anew."""
        actions: list[ev.Action] = []
        self._lost = False
        for n, edge in self._edges.items():
            if edge.up:
                edge.episode += 1
                edge.serves, edge.needs = serves, round
                actions.append(self.greet(n, round))
        return actions

    def notices(self, now: float) -> list[ev.Action]:
        """A sign of life to everybody."""
        self.spoken_at = now
        return [self._session.say("notice", n, 0) for n, edge in self._edges.items() if edge.up and edge.heard]

    # What is heard

    def heard(self, neighbor: int, now: float) -> None:
        """A message came from the neighbor."""
        self._heard_at[neighbor] = now

    def hello(self, header: Header, round: int) -> tuple[list[ev.Action], bool]:
        """A greeting: what to answer, and whether the edge has a new episode that stands now."""
        neighbor, told = header.sender, header.scalars
        edge = self._edges[neighbor]
        if header.round > self._plan.last_round and not edge.left:
            self.leave(neighbor)  # it has done its last round
            return [], True
        episode, knows = int(told.get("episode", 1)), int(told.get("heard", 0))
        if episode < edge.theirs or (episode == edge.theirs and (edge.up or edge.left)):
            # Stale, or said again; perhaps because this peer's own greeting got lost.
            lost = episode == edge.theirs and edge.up and edge.heard and knows != edge.episode
            return ([self.greet(neighbor, round)] if lost else []), False
        if not edge.up and (knows or episode == edge.theirs):
            # It does not know yet that the edge is down, and will answer this.
            self._open(neighbor)
            return [self.greet(neighbor, round)], False
        if not knows and (edge.heard or not edge.up):
            self._open(neighbor, answered=True)  # it was away, has started anew or has dropped this peer
        first = edge.episode == self._plan.life and not edge.heard
        edge.heard, edge.theirs, edge.away, edge.left = True, episode, False, False
        edge.their_serves = header.round
        edge.their_needs = int(told.get("needs", header.round))
        edge.their_round = int(told.get("round", header.round))
        edge.lost = bool(told.get("lost", 0.0))
        self._unreachable.discard(neighbor)
        # What it knows is this episode, or an earlier one while the greeting of this one is on its way; the very first
        # greetings cross, each being the answer to the other.
        return ([] if knows or first else [self.greet(neighbor, round)]), True

    def drop(self, neighbor: int) -> list[ev.Action]:
        """Take the edge down, and say so: the other end may be alive."""
        edge = self._edges[neighbor]
        if not edge.up:
            return []
        edge.up, edge.heard, edge.away = False, False, True
        return [self._session.say("drop", neighbor, 0, {"episode": float(edge.episode)})]

    def dropped(self, header: Header, round: int) -> tuple[list[ev.Action], bool]:
        """The other end has taken the edge down: so do we, and offer it anew, since there is a connection."""
        neighbor, edge = header.sender, self._edges[header.sender]
        episode = int(header.scalars.get("episode", 1))
        if episode < edge.theirs or edge.left:
            return [], False
        edge.theirs = episode
        was_up, edge.away = edge.up, True
        self._open(neighbor)
        return [self.greet(neighbor, round)], was_up

    def is_at_work(self, neighbor: int) -> bool:
        """Something of a round came from the neighbor; whether that is news of one that had lost its weights."""
        edge = self._edges[neighbor]
        was, edge.lost = edge.lost, False
        return was

    def leave(self, neighbor: int) -> None:
        """The neighbor has finished."""
        edge = self._edges[neighbor]
        edge.up, edge.left = False, True

    def lose(self, neighbor: int) -> None:
        """There is no connection to the neighbor."""
        self._unreachable.add(neighbor)

    def _open(self, neighbor: int, answered: bool = False) -> None:
        """Begin an episode. Until it is answered no round that was named may pass: it must be one still to do."""
        edge = self._edges[neighbor]
        edge.episode += 1
        edge.serves, edge.needs = self._standing(neighbor)
        if not answered:
            edge.serves = edge.needs = max(edge.serves, edge.needs)
        edge.up, edge.heard = True, False
        edge.their_serves = edge.their_needs = edge.their_round = 0
