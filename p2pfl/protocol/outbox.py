"""Sending side of credit-based flow control: payloads until acknowledged."""

from __future__ import annotations

from collections.abc import Iterable

from p2pfl.errors import ProtocolError, Refusal
from p2pfl.payload import Payload

MAX_CREDIT = 8  # rounds ahead for which a neighbor's credit is kept; it looks one round further than it is


class Outbox:
    """Payloads of one round.

    Buffers behind them may change only when it is `idle` and the transport has flushed.
    """

    def __init__(self) -> None:
        self.round = 0
        self._payloads: dict[int, Payload] = {}  # not acknowledged yet
        self._sent: set[int] = set()
        self._credit: dict[int, set[int]] = {}  # rounds, by neighbor
        self.asked_again = False  # for something that is still under way, as far as is known here

    @property
    def idle(self) -> bool:
        """Whether every neighbor has acknowledged its payload."""
        return not self._payloads

    @property
    def is_sending(self) -> bool:
        """Whether a payload was sent that no one has acknowledged yet."""
        return not self._sent.isdisjoint(self._payloads)

    @property
    def waiting_for(self) -> set[int]:
        """Neighbors that have not acknowledged."""
        return set(self._payloads)

    def begin(self, round: int, payloads: Iterable[tuple[int, Payload]]) -> list[tuple[int, Payload]]:
        """Take over a round's payloads; returns those that have credit already."""
        assert self.idle, "the last round's payloads are still needed"
        self.round, self._payloads, self._sent = round, dict(payloads), set()
        for neighbor, rounds in self._credit.items():
            self._credit[neighbor] = {r for r in rounds if r >= round}
        return [item for neighbor in self._payloads if (item := self._send(neighbor))]

    def add(self, neighbor: int, payload: Payload) -> list[tuple[int, Payload]]:
        """Add this round's payload for a neighbor in a new epoch; it needs credit."""
        self._payloads[neighbor] = payload
        self._sent.discard(neighbor)
        return [item] if (item := self._send(neighbor)) else []

    def revoke_credit(self, neighbor: int) -> None:
        """Forget the credit of an earlier epoch of the edge."""
        self._credit.pop(neighbor, None)

    def granted(self, neighbor: int, round: int, flushed: bool) -> list[tuple[int, Payload]]:
        """Take a neighbor's credit; returns what goes out now.

        Again, if the credit is repeated, but only where everything sent so far is `flushed`: on a slow link copies of
        the same would pile up otherwise. A neighbor that still misses something asks once more.

        Raises ProtocolError where a neighbor keeps granting credit for further rounds.
        """
        if round < self.round:
            return []
        credit = self._credit.setdefault(neighbor, set())
        if len(credit) > MAX_CREDIT and round not in credit:
            raise ProtocolError(Refusal.ROUND, f"credit for round {round} beside too many others")
        credit.add(round)
        if round == self.round and neighbor in self._sent and neighbor in self._payloads and not flushed:
            self.asked_again = True
            return []
        item = self._send(neighbor)
        return [item] if item and round == self.round else []

    def repeat(self, neighbor: int) -> list[tuple[int, Payload]]:
        """Unacknowledged payload of a neighbor whose connection broke."""
        return [(neighbor, self._payloads[neighbor])] if neighbor in self._sent & set(self._payloads) else []

    def acknowledged(self, neighbor: int, round: int) -> bool:
        """Note that a neighbor has all of its payload. False where that is no news."""
        known = round == self.round and neighbor in self._sent
        return known and self._payloads.pop(neighbor, None) is not None

    def drop(self, neighbor: int) -> None:
        """Forget the payload of a neighbor that needs nothing more."""
        self._payloads.pop(neighbor, None)

    def _send(self, neighbor: int) -> tuple[int, Payload] | None:
        if self.round not in self._credit.get(neighbor, ()) or neighbor not in self._payloads:
            return None
        self._sent.add(neighbor)
        return neighbor, self._payloads[neighbor]
