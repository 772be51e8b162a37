"""Check of reachability before a run: do messages arrive at all neighbors?

Each peer tells every neighbor, again and again, whether it has heard it. So a peer knows that its messages arrive, too:
an open connection alone does not say that. A neighbor that is at work in the run already sends other messages; it
counts as reached when it has admitted the connection.
"""

from __future__ import annotations

from collections.abc import Collection

from p2pfl.protocol import events as ev
from p2pfl.protocol.wire import VERSION, Header, Message

REPEAT_SECONDS = 0.25
_HEARD = "heard"


class Reachability:
    """One peer's side of the check: events in, messages out."""

    def __init__(self, me: int, links: Collection[int], run: str) -> None:
        self.heard: set[int] = set()
        """Neighbors whose messages arrive here."""
        self.confirmed: set[int] = set()
        """Neighbors that say that messages arrive there."""
        self.working: set[int] = set()
        """Neighbors that are in a run already, and say nothing about it."""
        self._me = me
        self._links = sorted(links)
        self._run = run
        self._due = 0.0

    def tick(self, now: float) -> list[ev.Send]:
        """Tell all neighbors whether they have been heard, where it is time."""
        if now < self._due:
            return []
        self._due = now + REPEAT_SECONDS
        return self.tell(self._links)

    def tell(self, links: Collection[int]) -> list[ev.Send]:
        """Tell some neighbors whether they have been heard."""
        return [ev.Send(link, self._message(link)) for link in links]

    def handle(self, event: ev.TransportEvent) -> list[ev.Send]:
        """React to an event of the transport; a neighbor that is new is told at once."""
        if not isinstance(event, ev.Received) or event.message.header.sender not in self._links:
            return []
        header = event.message.header
        is_new = header.sender not in self.heard
        self.heard.add(header.sender)
        if header.run != self._run:
            self.working.add(header.sender)
        elif header.scalars.get(_HEARD):
            self.confirmed.add(header.sender)
        return self.tell([header.sender]) if is_new else []

    def is_reached(self, neighbor: int, is_admitted: bool) -> bool:
        """Return whether messages arrive at a neighbor."""
        return neighbor in self.confirmed or (neighbor in self.working and is_admitted)

    def _message(self, link: int) -> Message:
        scalars = {_HEARD: float(link in self.heard)}
        return Message(Header(VERSION, self._run, "heartbeat", self._me, 0, scalars=scalars))
