"""State of the directory service: requests in, answers out, no input or output.

It keeps one entry a peer, the last that was announced. A process that another one has replaced cannot take its place
back, so that a forgotten process does not undo a restart.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from p2pfl.rendezvous.entry import VERSION, Entry, process_name
from p2pfl.rendezvous.wire import Announce, Neighbors, Query, Refused, Withdraw

_REPLACED = 16  # processes of a peer that are remembered as replaced


@dataclass
class _Slot:
    """Entry of one peer, if any, and processes that have been replaced."""

    entry: Entry | None = None
    revision: int = 0
    replaced: deque[str] = field(default_factory=lambda: deque(maxlen=_REPLACED))


class DirectoryState:
    """Entries of the peers of one topology."""

    def __init__(self, topology: str, links: Mapping[int, Set[int]], keeps_records: bool = False) -> None:
        """`topology`: digest of the topology. `links`: neighbors of each peer."""
        self._keeps_records = keeps_records
        self._topology = topology
        self._links = links
        self.service = process_name()
        self._revision = self._announced = 0
        self._slots = {peer: _Slot() for peer in links}

    @property
    def announced(self) -> int:
        """Number of peers that are announced now."""
        return self._announced

    def entry(self, peer: int) -> Entry | None:
        """Entry of a peer; None where it is not announced."""
        return self._slots[peer].entry

    def handle(self, sender: int, request: Announce | Query | Withdraw) -> Neighbors | Refused:
        """Answer a request of a peer, which its connection has proven to be."""
        if isinstance(request, Query):
            own = self._slots[sender].entry
            return Neighbors(request.number, self.service, self._revision, () if own is None else (own,))
        if isinstance(request, Withdraw):
            slot = self._slots[sender]
            if slot.entry is not None and slot.entry.process == request.process:
                self._replace(slot, None)
            return Neighbors(request.number, self.service, self._revision)
        if problem := self._problem(sender, request.entry):
            return Refused(request.number, problem)
        is_superseded = not self._announce(self._slots[sender], request.entry, request.replaces)
        known = request.revision if request.service == self.service else 0
        found = [self._slots[peer] for peer in sorted(self._links[sender])]
        entries = tuple(slot.entry for slot in found if slot.entry is not None and slot.revision > known)
        return Neighbors(request.number, self.service, self._revision, entries, is_superseded, self._keeps_records)

    def _problem(self, sender: int, entry: Entry) -> str:
        """Reason to refuse an entry for good; empty if there is none."""
        if entry.version != VERSION:
            return f"format {entry.version} instead of {VERSION}; install the same p2pfl everywhere"
        if entry.identity.topology != self._topology:
            return "it serves another topology; start it and all peers with the same file"
        if entry.peer != sender:
            return "the entry is of another peer than the connection"
        return ""

    def _announce(self, slot: _Slot, entry: Entry, replaces: str | None) -> bool:
        """Keep an entry; False where its process was replaced, or may not replace another."""
        if entry.process in slot.replaced:
            return False
        if replaces is not None and slot.entry is not None and slot.entry.process not in (entry.process, replaces):
            return False
        if entry != slot.entry:
            self._replace(slot, entry)
        return True

    def _replace(self, slot: _Slot, entry: Entry | None) -> None:
        if slot.entry is not None and (entry is None or entry.process != slot.entry.process):
            slot.replaced.append(slot.entry.process)
        self._announced += (entry is not None) - (slot.entry is not None)
        self._revision += 1
        slot.entry, slot.revision = entry, self._revision
