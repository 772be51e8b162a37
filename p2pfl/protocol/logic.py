"""Interface of a state machine that a driver runs: peer, client, coordinator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Protocol

from p2pfl.algorithms.base import Saved
from p2pfl.payload import Payload
from p2pfl.protocol import events as ev
from p2pfl.protocol.context import PeerContext


class Logic(Protocol):
    """Events in, actions out; computes, but touches no socket, file, thread or clock."""

    @property
    def context(self) -> PeerContext:
        """Context that it was started with."""

    @property
    def round(self) -> int:
        """The round that it is in."""

    refused: Counter[str]
    """Messages that were not taken, by reason."""

    @property
    def deadline(self) -> float:
        """When an `ev.Tick` is worth sending; infinity while there is nothing to wait for."""

    @property
    def wants_flush(self) -> bool:
        """Whether it could continue if only the transport had let go of its buffers."""

    @property
    def payloads(self) -> Mapping[int, Payload]:
        """Payloads of the round that is being recorded, as a resumed run must send them."""

    @property
    def algorithm_state(self) -> Saved:
        """State of the algorithm after the recorded round, for its checkpoint."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """Fields of the round's record that only it knows."""

    def handle(self, event: ev.Event, now: float) -> list[ev.Action]:
        """React to one event at time `now` (seconds on any steady clock)."""
