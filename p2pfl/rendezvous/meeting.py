"""Meeting of one peer with its neighbors through a directory, during a run.

A thread announces the peer's address, and looks for those of its neighbors, to the end of the run, since a neighbor
that is restarted has another one. `RendezvousTransport` opens the links at the addresses that it finds.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from msgspec.structs import replace

from p2pfl.errors import ConfigError, P2PFLError, Refusal, TransportError, unforeseen
from p2pfl.protocol.events import Refused, TransportEvent
from p2pfl.protocol.wire import Message
from p2pfl.rendezvous.address import Announced, listens
from p2pfl.rendezvous.book import Book, News, Place
from p2pfl.rendezvous.directory import Directory, DirectoryError, Found
from p2pfl.rendezvous.entry import Entry
from p2pfl.rendezvous.record_sender import LAST_SECONDS, RecordSender, Say
from p2pfl.rendezvous.upload import Upload
from p2pfl.transport import Credentials, Keys, ZmqTransport
from p2pfl.transport.links import LinkStage

LOOK_SECONDS = 0.25  # between two looks, while neighbors are missing
WATCH_SECONDS = 1.0  # and when all have been found
END_SECONDS = 5.0  # at most, for the thread to end


class Meeting:
    """Announcement of one peer and its search for neighbors. Use as a context manager."""

    def __init__(self, directory: Directory, book: Book, own: Entry, announced: Announced, say: Say) -> None:
        """Prepare; nothing is announced before the first transport is open.

        `own`: the peer's entry, whose address is not known yet. `say` is called from this object's thread.
        """
        self._directory = directory
        self._book = book
        self._own = own
        self._announced = announced
        self._bind = announced.bind
        self._say = say
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._wake: Callable[[], None] = lambda: None
        self._failure: P2PFLError | None = None
        self._trouble = ""
        self._is_superseded = False
        self._records: RecordSender | None = None
        self._gives_way = False

    def __enter__(self) -> Meeting:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def places(self) -> Mapping[int, Place]:
        """Places of the neighbors that have been found; another mapping after each change."""
        if self._failure is not None:
            raise self._failure
        return self._book.places

    @property
    def is_complete(self) -> bool:
        """Whether all neighbors have been found."""
        return not self._book.missing

    def whereabouts(self, peers: Iterable[int]) -> str:
        """Places at which some neighbors were looked for, on one line."""
        trouble = f" ({self._trouble})" if self._trouble else ""
        if self._is_superseded:
            trouble += f" ({self._superseded})"
        return self._book.whereabouts(peers) + trouble

    @property
    def _superseded(self) -> str:
        return f"another process has announced itself as this peer in {self._directory.where} since"

    def give_way(self) -> None:
        """Announce nothing where another process is this peer, and at work.

        `places` then raises ConfigError. A restart takes the place of the process before it. A check must not: it would
        draw a run's links to itself.
        """
        self._gives_way = True

    def place(self, neighbor: int) -> str:
        """Place of a neighbor in words, without the directory's trouble."""
        return self._book.whereabouts([neighbor])

    def open(self, grace: float, credentials: Credentials | None) -> RendezvousTransport:
        """Open the peer's sockets, and announce them.

        A later transport of the same peer gets the port of the first. Raises TransportError.
        """
        transport = ZmqTransport(self._bind, grace, credentials)
        self._bind = f"{self._bind.rpartition(':')[0]}:{transport.endpoint.rpartition(':')[2]}"
        address = self._announced.address(transport.endpoint)
        self._own = replace(self._own, address=address)
        self._wake = transport.wake
        if self._thread is None:
            self._say(News(f"announces {address} in {self._directory.where}"))
            self._thread = threading.Thread(target=self._run, name="rendezvous", daemon=True)
            self._thread.start()
        keys = credentials if isinstance(credentials, Keys) and self._book.wants_keys else None
        return RendezvousTransport(transport, address, self, keys)

    def keep_records(self, run_dir: Path, peer_dir: Path) -> None:
        """Send the peer's records to the directory from now on, if it keeps records."""
        self._records = RecordSender(self._directory, Upload(run_dir, peer_dir, self._own.process), self._say)

    def close(self) -> None:
        """Send the last records, withdraw the announcement, and end the thread."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(END_SECONDS + (LAST_SECONDS if self._records is not None else 0.0))

    def _run(self) -> None:
        try:
            while not self._closed.is_set():
                self._look()
                if self._failure is not None:
                    break
                if not self._send_records():
                    self._closed.wait(WATCH_SECONDS if self.is_complete else LOOK_SECONDS)
            if self._records is not None and not self._is_superseded:
                self._records.send_last()
            with contextlib.suppress(DirectoryError, ConfigError):
                self._directory.withdraw(self._own)
        finally:
            self._directory.close()
            if self._records is not None:
                self._records.close()

    def _send_records(self) -> bool:
        """Send some of the peer's records; whether there may be more."""
        if self._records is None or self._is_superseded or self._trouble:
            return False
        return self._records.send(self._closed.is_set)

    def _look(self) -> None:
        try:
            if self._gives_way and not self._take_free_place():
                return
            found = self._directory.exchange(self._own, self._book.names, self._closed.is_set)
        except ConfigError as error:
            self._failure = error
        except DirectoryError as error:
            if str(error) != self._trouble:
                self._trouble = str(error)
                self._say(News(f"{error}; trying again", matters=True))
            return
        except Exception as error:  # a bug: without a word the peer would wait in vain
            self._failure = unforeseen(error)
        else:
            self._trouble = ""
            self._take(found)
        self._wake()

    def _take_free_place(self) -> bool:
        """Announce this process where no other one is this peer, and listens.

        False where another one was quicker: the next look finds it. Raises ConfigError for one that listens.
        """
        other = self._directory.occupant(self._own, self._closed.is_set)
        if other is not None and other.address != self._own.address and listens(other.address):
            raise ConfigError(
                f"another process is this peer, and listens at {other.address} (announced in {self._directory.where})",
                remedy="a check would take its place in the run; stop that process first",
            )
        self._gives_way = not self._directory.claim(self._own, other, self._closed.is_set)
        return not self._gives_way

    def _take(self, found: Found) -> None:
        news = self._book.take(found.entries)
        for peer, problem in found.unreadable.items():
            news += self._book.refuse(peer, problem)
        if found.replaced is not None and found.replaced.identity == self._own.identity:
            again = "--rendezvous-run NAME tells the starts of a run apart"
            news.append(News(f"replaces its entry of an earlier start, {found.replaced.address}; {again}"))
        if found.is_superseded and not self._is_superseded:
            news.append(News(f"{self._superseded}; start each peer once", matters=True))
        self._is_superseded = found.is_superseded
        for one in news:
            self._say(one)


class RendezvousTransport:
    """ZeroMQ transport whose links follow the addresses that a meeting finds."""

    def __init__(self, transport: ZmqTransport, address: str, meeting: Meeting, keys: Keys | None) -> None:
        """Take over an open transport.

        `keys`: those of the peer, which learn the neighbors' public keys, where the directory tells them.
        """
        self.endpoint = address
        self._transport = transport
        self._meeting = meeting
        self._keys = keys
        self._followed: Mapping[int, Place] = {}
        self._neighbors: frozenset[int] = frozenset()

    def connect(self, endpoints: Mapping[int, str], vector_bytes: int) -> None:
        """Open a link to each neighbor, once its address is known.

        `endpoints` name the neighbors only.
        """
        self._neighbors, self._followed = frozenset(endpoints), {}
        self._transport.connect(dict.fromkeys(endpoints, ""), vector_bytes)
        self._follow()

    def redirect(self, endpoints: Mapping[int, str]) -> None:
        """Do nothing: the meeting says where neighbors are."""

    def send(self, neighbor: int, message: Message) -> int:
        """As in the interface."""
        return self._transport.send(neighbor, message)

    def stage(self, neighbor: int) -> LinkStage:
        """Return how far the connection to a neighbor has come, for people."""
        return self._transport.stage(neighbor)

    def discard(self, neighbor: int) -> None:
        """As in the interface."""
        self._transport.discard(neighbor)

    def flushed(self) -> bool:
        """As in the interface."""
        return self._transport.flushed()

    def poll(self, seconds: float) -> list[TransportEvent]:
        """As in the interface. Raises ConfigError where the directory cannot be used."""
        knew_all = self._neighbors <= self._followed.keys()
        self._follow()
        events = self._transport.poll(seconds)
        return events if knew_all else [event for event in events if not self._is_early(event)]

    def wake(self) -> None:
        """As in the interface."""
        self._transport.wake()

    def close(self) -> None:
        """As in the interface; the announcement stays until the meeting is closed."""
        self._transport.close()

    def _follow(self) -> None:
        """Open the links of neighbors whose places are new."""
        places = self._meeting.places
        if places is self._followed:
            return
        before, self._followed = self._followed, places
        for neighbor in sorted(self._neighbors & places.keys()):
            place = places[neighbor]
            if place == before.get(neighbor):
                continue
            if self._keys is not None:
                self._keys.learn(neighbor, place.public_key)
            with contextlib.suppress(TransportError):  # an address that ZeroMQ does not take: it is not reached
                self._transport.readdress(neighbor, place.address)

    def _is_early(self, event: TransportEvent) -> bool:
        """Whether a neighbor may have been refused since its public key was not known yet."""
        return self._keys is not None and isinstance(event, Refused) and event.code is Refusal.KEY
