"""Backlog of a peer that resumes: vectors of earlier rounds, for those behind it."""

from __future__ import annotations

from collections.abc import Mapping

from p2pfl.payload import Payload
from p2pfl.protocol import events as ev
from p2pfl.protocol.channel import Channel
from p2pfl.protocol.membership import Membership
from p2pfl.topology import NeighborhoodSchedule


class Backlog:
    """Payloads of the rounds before the first that neighbors may still need, by round.

    They come from the peer's checkpoints: its neighbors' newest may be older.
    """

    def __init__(self, payloads: Mapping[int, Mapping[int, Payload]]) -> None:
        self._payloads = dict(payloads)

    def __bool__(self) -> bool:
        """Whether some have not been offered yet."""
        return bool(self._payloads)

    def first_for(self, neighbor: int, round: int, schedule: NeighborhoodSchedule) -> int:
        """First round from which on a neighbor can be served up to `round`.

        A round in which it is no neighbor is none.
        """
        earlier = round
        while (earlier := earlier - 1) in self._payloads:
            if neighbor in self._payloads[earlier]:
                round = earlier
            elif neighbor in schedule(earlier).outgoing:
                break  # it was away
        return round

    def serve(self, channel: Channel, membership: Membership) -> list[ev.Action]:
        """Send these rounds' vectors, round by round, to neighbors without them."""
        actions: list[ev.Action] = []
        while self._payloads and channel.outbox.idle:
            round = min(self._payloads)
            items = [item for item in self._payloads.pop(round).items() if membership.serves(item[0], round)]
            actions += channel.deliver(round, channel.outbox.begin(round, items))
        return actions

    def clear(self) -> None:
        """Forget all: the peer goes to a later round."""
        self._payloads.clear()
