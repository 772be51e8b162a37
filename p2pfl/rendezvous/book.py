"""Address book of one peer: where its neighbors are, by what a directory says.

Without input and output: entries in, news and places out. An entry of another run, of another peer, or without a usable
address is not taken, and said once. A newer address replaces an older one, as when a peer was restarted elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from p2pfl.rendezvous.entry import VERSION, Entry, Identity, is_address
from p2pfl.transport.keyring import is_key, is_loopback
from p2pfl.util.text import visible


@dataclass(frozen=True)
class Place:
    """Address of a neighbor, and its public key where the directory tells keys."""

    address: str
    public_key: str = ""


@dataclass(frozen=True)
class News:
    """Line for the user about a neighbor; `matters` where something may be wrong."""

    text: str
    matters: bool = False


@dataclass
class Book:
    """Places of one peer's neighbors.

    `names`: labels of the neighbors, by number. `wants_keys`: only entries with a public key are of use. `only_local`:
    messages are not encrypted, so that only addresses of this machine are.
    """

    identity: Identity
    names: Mapping[int, str]
    wants_keys: bool = False
    only_local: bool = False
    places: Mapping[int, Place] = field(default_factory=dict)
    """Places by neighbor; another mapping after each change, for readers in other threads."""
    _problems: dict[int, str] = field(default_factory=dict)

    @property
    def missing(self) -> list[int]:
        """Neighbors without a place."""
        return [peer for peer in self.names if peer not in self.places]

    def take(self, entries: Iterable[Entry]) -> list[News]:
        """Take a directory's entries of neighbors; returns what is new."""
        news = []
        for entry in entries:
            if entry.peer not in self.names:
                continue
            problem = self._problem(entry)
            if problem:
                news += self.refuse(entry.peer, problem)
                continue
            self._problems.pop(entry.peer, None)
            place = Place(entry.address, entry.public_key if self.wants_keys else "")
            before = self.places.get(entry.peer)
            if place != before:
                self.places = {**self.places, entry.peer: place}
                news.append(self._moved(entry.peer, place, before))
        return news

    def refuse(self, peer: int, problem: str) -> list[News]:
        """Note why a neighbor's entry is of no use; a line where that is new."""
        if self._problems.get(peer) == problem:
            return []
        self._problems[peer] = problem
        ending = "the known address stays" if peer in self.places else "waiting for it to be replaced"
        return [News(f"entry of peer {self.names[peer]} is not used: {problem}; {ending}", matters=True)]

    def whereabouts(self, peers: Iterable[int]) -> str:
        """Places at which some peers were looked for, on one line.

        Where none of them is a neighbor, the places of all neighbors.
        """
        found = sorted(peer for peer in peers if peer in self.names) or sorted(self.names)
        return ", ".join(map(self._whereabouts, found))

    def _whereabouts(self, peer: int) -> str:
        if peer in self.places:
            return f"peer {self.names[peer]} at {self.places[peer].address}"
        why = self._problems.get(peer)
        return f"peer {self.names[peer]} (no address announced{f'; its entry: {why}' if why else ''})"

    def _moved(self, peer: int, place: Place, before: Place | None) -> News:
        if before is None:
            return News(f"peer {self.names[peer]} is at {place.address}")
        if before.address != place.address:
            return News(f"peer {self.names[peer]} has moved from {before.address} to {place.address}")
        return News(f"peer {self.names[peer]} at {place.address} has another public key")

    def _problem(self, entry: Entry) -> str:
        """Why an entry is of no use; empty if it is."""
        if entry.version != VERSION:
            return f"format {entry.version} instead of {VERSION}; install the same p2pfl everywhere"
        if differences := self.identity.differences(entry.identity):
            return f"of another run ({', '.join(differences)}), perhaps an earlier one"
        if not is_address(entry.address):
            return f"{visible(entry.address[:60], controls=True)!r} is not an address"
        if self.wants_keys and not is_key(entry.public_key):
            return "without a public key; start it with --keys"
        if self.only_local and not is_loopback(host_of(entry.address)):
            return f"{entry.address} is beyond this machine, and messages are not encrypted; use --keys or --insecure"
        return ""


def host_of(address: str) -> str:
    """Host of an address `tcp://HOST:PORT`, without brackets."""
    return urlsplit(address).hostname or ""
